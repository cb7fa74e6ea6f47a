package access

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// Words of the file of rights that stand for many readers.
const (
	everyKnown = "*"      // who is known
	anyone     = "anyone" // who is not known, too
)

// rights are what readers may read and write. What nothing allows is forbidden.
type rights struct {
	allowed []allowance
	anyone  bool // may read something
	hides   bool // something from those who are not known, which others may read
	writers bool // there are some
}

// allowance allows some readers to read, and some to write, some images.
type allowance struct {
	images, readers, writers []*regexp.Regexp
	anyone                   bool // may read
}

// parseRights reads TOML such as
//
//	[[allow]]
//	images = ["win11", "kiosk-*"]
//	readers = ["user:alice", "token:floor2-*", "certificate:*.floor3.example"]
//	writers = ["token:build"]
func parseRights(b []byte) (rights, error) {
	var file struct {
		Allow []struct{ Images, Readers, Writers []string }
	}
	meta, err := toml.Decode(string(b), &file)
	if err != nil {
		return rights{}, err
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return rights{}, fmt.Errorf("%q means nothing here", unknown[0].String())
	}
	var r rights
	for i, a := range file.Allow {
		if len(a.Images) == 0 || len(a.Readers)+len(a.Writers) == 0 {
			return rights{}, fmt.Errorf("the %d. [[allow]] needs images, and readers or writers", i+1)
		}
		var one allowance
		for _, image := range a.Images {
			one.images = append(one.images, pattern(image))
		}
		for _, reader := range a.Readers {
			if reader == anyone {
				one.anyone, r.anyone = true, true
				continue
			}
			if !isWho(reader) {
				return rights{}, fmt.Errorf("reader %q: use %q, %q, or a name after %s", reader, anyone, everyKnown, strings.Join(kinds, " "))
			}
			one.readers = append(one.readers, pattern(reader))
		}
		for _, writer := range a.Writers {
			if !isWho(writer) { // nor anyone: who writes is known
				return rights{}, fmt.Errorf("writer %q: use %q, or a name after %s", writer, everyKnown, strings.Join(kinds, " "))
			}
			one.writers, r.writers = append(one.writers, pattern(writer)), true
		}
		r.allowed = append(r.allowed, one)
	}
	for i, a := range file.Allow {
		if len(r.allowed[i].readers) > 0 {
			r.hides = r.hides || slices.ContainsFunc(a.Images, func(image string) bool { return !r.shows(image) })
		}
	}
	return r, nil
}

// shows reports whether anyone may read all images that a text with * stands for:
// what takes in the text as it is takes in whatever is put for its *.
func (r rights) shows(images string) bool { return r.allow(Nobody, images) }

// isWho reports whether a text stands for those who are known, or some of them.
func isWho(s string) bool {
	return s == everyKnown || slices.ContainsFunc(kinds, func(k string) bool { return strings.HasPrefix(s, k) })
}

// pattern is a text in which * stands for any characters.
func pattern(s string) *regexp.Regexp {
	return regexp.MustCompile(`(?s)^` + strings.ReplaceAll(regexp.QuoteMeta(s), `\*`, `.*`) + `$`)
}

func match(list []*regexp.Regexp, s string) bool {
	return slices.ContainsFunc(list, func(p *regexp.Regexp) bool { return p.MatchString(s) })
}

func (r rights) allowWriting(writer Reader, image string) bool {
	return writer != Nobody && slices.ContainsFunc(r.allowed, func(a allowance) bool {
		return match(a.images, image) && match(a.writers, string(writer))
	})
}

func (r rights) allow(reader Reader, image string) bool {
	return slices.ContainsFunc(r.allowed, func(a allowance) bool {
		return match(a.images, image) && (a.anyone || reader != Nobody && match(a.readers, string(reader)))
	})
}
