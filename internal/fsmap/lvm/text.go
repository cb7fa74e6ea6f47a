package lvm

import (
	"strconv"
	"strings"
)

// section is a part of a text in LVM2's form: names with values, lists of values,
// or sections.
type section struct {
	names    []string // of sections, in order
	sections map[string]*section
	values   map[string][]string // without quotes
}

func (s *section) section(name string) *section { return s.sections[name] }
func (s *section) list(name string) []string    { return s.values[name] }

// text returns a value, "" if there is none.
func (s *section) text(name string) string {
	if v := s.values[name]; len(v) == 1 {
		return v[0]
	}
	return ""
}

// number returns a value that must be a number that is not large.
func (s *section) number(name string) (int64, error) { return number(s.text(name)) }

func number(v string) (int64, error) {
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 || n > 1<<40 {
		return 0, damaged("%q is no number", v)
	}
	return n, nil
}

// sectors returns a value in sectors, as bytes.
func (s *section) sectors(name string) (int64, error) {
	n, err := s.number(name)
	if err == nil && (n == 0 || n > 1<<50/sector) {
		err = damaged("%s is %d", name, n)
	}
	return n * sector, err
}

const mostDepth = 16

// parse reads a text.
func parse(text string) (*section, error) {
	p := &parser{rest: text}
	s := p.section(0)
	if p.failed || p.token() != "" {
		return nil, damaged("metadata that cannot be read")
	}
	return s, nil
}

type parser struct {
	rest   string
	failed bool
}

// token returns the next word, sign or string; strings begin with a quote. It is
// empty at the end.
func (p *parser) token() string {
	for {
		p.rest = strings.TrimLeft(p.rest, " \t\n\r")
		if !strings.HasPrefix(p.rest, "#") {
			break
		}
		_, p.rest, _ = strings.Cut(p.rest, "\n")
	}
	if p.rest == "" {
		return ""
	}
	end := 1
	switch c := p.rest[0]; {
	case c == '"':
		for end < len(p.rest) && p.rest[end] != '"' {
			if p.rest[end] == '\\' {
				end++
			}
			end++
		}
		if end >= len(p.rest) {
			p.failed = true
			return ""
		}
		t := p.rest[:end]
		p.rest = p.rest[end+1:]
		return strings.ReplaceAll(t, `\`, "")
	case strings.IndexByte("{}[]=,", c) >= 0:
	default:
		if end = strings.IndexAny(p.rest, " \t\n\r{}[]=,\"#"); end < 0 {
			end = len(p.rest)
		}
	}
	t := p.rest[:end]
	p.rest = p.rest[end:]
	return t
}

// section reads up to a closing brace, or to the end of the outermost one.
func (p *parser) section(depth int) *section {
	s := &section{sections: make(map[string]*section), values: make(map[string][]string)}
	for !p.failed {
		name := p.token()
		if name == "" && depth == 0 || name == "}" && depth > 0 {
			return s
		}
		switch sign := p.token(); {
		case name == "" || strings.Contains("{}[]=,", name) || depth == mostDepth, s.sections[name] != nil, s.values[name] != nil:
			p.failed = true // names that come twice would be looked at twice
		case sign == "{":
			s.names = append(s.names, name)
			s.sections[name] = p.section(depth + 1)
		case sign == "=":
			s.values[name] = p.value()
		default:
			p.failed = true
		}
	}
	return s
}

// value reads a value or a list of values.
func (p *parser) value() (list []string) {
	t := p.token()
	if t != "[" {
		return []string{p.plain(t)}
	}
	for t = p.token(); t != "]"; t = p.token() {
		if t == "," {
			continue
		}
		if list = append(list, p.plain(t)); p.failed {
			return nil
		}
	}
	return list
}

func (p *parser) plain(t string) string {
	if t == "" || strings.Contains("{}[]=,", t) {
		p.failed = true
	}
	return strings.TrimPrefix(t, `"`)
}
