package ckm

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxNameBytes    = 100
	maxPathBytes    = 1024
	maxPathElements = 32
	maxElementBytes = 255
	maxVersion      = 1<<31 - 1

	forbiddenInNames = `"<>|\/:*?`
)

// Extensions of a package's two files, and of its statement where that is written
// to a file.
const (
	DataExt      = ".ckm"
	IndexExt     = ".index"
	StatementExt = ".statement"
)

// CheckName reports whether name may be the name of an image (doc/format.md,
// Names; the characters are those that MED-V forbids).
func CheckName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("an image name must not be empty")
	case len(name) > maxNameBytes:
		return fmt.Errorf("image name %.20q… is longer than %d bytes", name, maxNameBytes)
	case !utf8.ValidString(name):
		return fmt.Errorf("image name %q is not valid UTF-8", name)
	case strings.ContainsFunc(name, unicode.IsSpace):
		return fmt.Errorf("image name %q holds a space; use for instance %q", name,
			strings.Join(strings.Fields(name), "-"))
	case strings.ContainsFunc(name, isControl):
		return fmt.Errorf("image name %q holds a control character", name)
	case strings.ContainsAny(name, forbiddenInNames):
		return fmt.Errorf(`image name %q holds one of " < > | \ / : * ?, which are not allowed`, name)
	case name[0] == '.' || name[0] == '-' || strings.HasSuffix(name, "."):
		return fmt.Errorf("image name %q must not begin with . or - nor end with a dot", name)
	case isDeviceName(name) || strings.EqualFold(name, "PrestagedImages"):
		return fmt.Errorf("image name %q is reserved", name)
	}
	return nil
}

// DataName and IndexName return the names of the two files of a package.
func DataName(name string, version uint32) string  { return stem(name, version) + DataExt }
func IndexName(name string, version uint32) string { return stem(name, version) + IndexExt }

// StatementName returns the name of the file that a package's statement is
// written to.
func StatementName(name string, version uint32) string { return stem(name, version) + StatementExt }

func stem(name string, version uint32) string {
	return name + "_" + strconv.FormatUint(uint64(version), 10)
}

// ParseFileName takes a package's file name apart. It reports false for any
// name that DataName or IndexName would not have made.
func ParseFileName(file string) (name string, version uint32, ext string, ok bool) {
	base, isData := strings.CutSuffix(file, DataExt)
	ext = DataExt
	if !isData {
		if base, ok = strings.CutSuffix(file, IndexExt); !ok {
			return "", 0, "", false
		}
		ext = IndexExt
	}
	i := strings.LastIndexByte(base, '_')
	if i < 0 {
		return "", 0, "", false
	}
	v, err := strconv.ParseUint(base[i+1:], 10, 31)
	name, version = base[:i], uint32(v)
	if err != nil || v == 0 || CheckName(name) != nil || stem(name, version) != base {
		return "", 0, "", false
	}
	return name, version, ext, true
}

// CheckPath reports whether p may be the path of one of an image's files:
// relative, with / between its elements, and able to exist on every system.
func CheckPath(p string) error {
	if len(p) > maxPathBytes {
		return fmt.Errorf("file path %.20q… is longer than %d bytes", p, maxPathBytes)
	}
	elements := strings.Split(p, "/")
	if len(elements) > maxPathElements {
		return fmt.Errorf("file path %.20q… is more than %d folders deep", p, maxPathElements)
	}
	for _, e := range elements {
		switch {
		case e == "" || len(e) > maxElementBytes || !utf8.ValidString(e):
			return fmt.Errorf("file path %q has an empty, overlong or non-UTF-8 element", p)
		case strings.ContainsFunc(e, isControl) || strings.ContainsAny(e, forbiddenInNames):
			return fmt.Errorf("file path %q holds a character that is not allowed", p)
		case strings.HasSuffix(e, ".") || strings.HasSuffix(e, " "):
			return fmt.Errorf("file path %q has an element that ends with a dot or a space", p)
		case isDeviceName(e):
			return fmt.Errorf("file path %q has an element that Windows keeps for a device", p)
		}
	}
	return nil
}

// CheckPaths checks the path of each file, and that all of them can exist
// together, also where case makes no difference.
func CheckPaths(files []File) error {
	seen := make(map[string]bool, len(files)) // true: a file; false: a folder of one
	for _, f := range files {
		if err := CheckPath(f.Path); err != nil {
			return err
		}
		p := foldCase(f.Path)
		if file, ok := seen[p]; ok && file {
			return fmt.Errorf("file path %q is there twice", f.Path)
		} else if ok {
			return fmt.Errorf("file path %q is a folder of another file", f.Path)
		}
		seen[p] = true
		for i := strings.LastIndexByte(p, '/'); i > 0; i = strings.LastIndexByte(p[:i], '/') {
			if seen[p[:i]] {
				return fmt.Errorf("file path %q lies inside another file", f.Path)
			}
			seen[p[:i]] = false
		}
	}
	return nil
}

// foldCase makes strings equal that differ only in case, by the same rule as
// strings.EqualFold. ToLower would not do: Windows takes σ and ς for the same.
func foldCase(s string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, s)
}

// isDeviceName knows the names that Windows resolves to devices, with or
// without an extension. It takes ¹, ² and ³ for digits.
func isDeviceName(s string) bool {
	base, _, _ := strings.Cut(s, ".")
	base = strings.ToUpper(strings.TrimRight(base, " "))
	switch base {
	case "CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$":
		return true
	}
	number, ok := strings.CutPrefix(base, "COM")
	if !ok {
		number, ok = strings.CutPrefix(base, "LPT")
	}
	return ok && utf8.RuneCountInString(number) == 1 && strings.Contains("0123456789¹²³", number)
}

// isControl knows the characters that act on a terminal, or on the order in
// which text is shown, instead of being shown. They could make one name look
// like another.
func isControl(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) }

// isText reports whether s, at most limit bytes long, can be shown to people.
func isText(s string, limit int) bool {
	return len(s) <= limit && utf8.ValidString(s) && !strings.ContainsFunc(s, isControl)
}
