package settings

import (
	"fmt"
	"regexp"
	"strings"
)

// variable is how an environment variable is written.
var variable = regexp.MustCompile(`%[^%\\]+%`)

// cleanPath returns an absolute Windows path in its usual spelling: with
// backslashes, and none at the end. What cannot be meant is an error that
// completes the sentence "the value …". The kind is that of the registry value.
func cleanPath(s string, kind uint32) (string, error) {
	fail := func(format string, args ...any) (string, error) {
		return "", fmt.Errorf("is %q %w", s, fmt.Errorf(format, args...))
	}
	p := strings.ReplaceAll(s, "/", `\`)
	if rest, ok := strings.CutPrefix(p, `\\?\`); ok {
		p = rest
		if len(rest) > 4 && strings.EqualFold(rest[:4], `UNC\`) {
			p = `\\` + rest[4:]
		}
	}
	var root string
	switch {
	case strings.ContainsRune(p, '"'):
		return fail("and must not hold quotation marks")
	case kind == regSZ && variable.MatchString(p):
		return fail("and holds a variable, which counts in values of type REG_EXPAND_SZ alone")
	case strings.HasPrefix(p, `\\`):
		server, rest, _ := strings.Cut(p[2:], `\`)
		share, rest, _ := strings.Cut(rest, `\`)
		if server == "" || share == "" || strings.Trim(server+share, ".") == "" || strings.ContainsAny(server+share, `<>|*?:`) || server == "." || share == ".." {
			return fail(`and must name a server and a share, as in \\server\share`)
		}
		root, p = `\\`+server+`\`+share+`\`, rest
	case strings.HasPrefix(p, `\`):
		return fail(`and has no drive; write it as in C:\MED-V Images\PrestagedImages`)
	case len(p) >= 2 && p[1] == ':' && isLetter(p[0]):
		if len(p) == 2 || p[2] != '\\' {
			return fail(`and has no \ after the drive; write it as in C:\MED-V Images\PrestagedImages`)
		}
		root, p = p[:3], p[3:]
	default:
		return fail(`and must be an absolute path, as C:\MED-V Images\PrestagedImages`)
	}
	if strings.ContainsAny(p, `<>|*?:`) || strings.ContainsFunc(p, func(r rune) bool { return r < ' ' }) {
		return fail("and holds characters that no path has")
	}
	var parts []string
	for _, e := range strings.Split(p, `\`) {
		switch e {
		case "", ".":
		case "..":
			return fail("and must not hold .. elements")
		default:
			parts = append(parts, e)
		}
	}
	if len(parts) == 0 && strings.HasPrefix(root, `\\`) {
		root = strings.TrimSuffix(root, `\`)
	}
	return root + strings.Join(parts, `\`), nil
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
