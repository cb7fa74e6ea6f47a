package settings

import (
	"errors"
	"fmt"
	"strings"
)

// A settings file is small and flat. One that is not, from a machine that means
// harm, can keep the decoder busy for hours and fill the memory: it takes the
// cube of the length of a dotted name.
const (
	maxText  = 256 << 10 // bytes
	maxDepth = 16        // of brackets, and of dotted names
)

var errShape = errors.New("is not one of prestage: it is too long or too deep")

// checkShape refuses text that the TOML decoder must not see.
func checkShape(text string) error {
	if len(text) > maxText {
		return fmt.Errorf("%w (%d bytes)", errShape, len(text))
	}
	depth, dots := 0, 0
	for len(text) > 0 {
		c := text[0]
		switch c {
		case '#':
			text = text[max(1, end(text, "\n")):]
			continue
		case '"', '\'':
			text = text[quoted(text):]
			continue
		case '[', '{':
			depth++
			dots = 0
		case ']', '}':
			depth = max(0, depth-1)
			dots = 0
		case '=', ',', '\n':
			dots = 0
		case '.':
			dots++
		}
		if depth > maxDepth || dots > maxDepth {
			return errShape
		}
		text = text[1:]
	}
	return nil
}

// end returns where mark is, or the end of the text.
func end(text, mark string) int {
	if i := strings.Index(text, mark); i >= 0 {
		return i
	}
	return len(text)
}

// quoted returns how long the string at the start of text is. One that does not
// end, ends at the end of its line, or of the text: the decoder refuses it.
func quoted(text string) int {
	mark := text[:1]
	if long := strings.Repeat(mark, 3); strings.HasPrefix(text, long) {
		mark = long
	}
	for i := len(mark); i < len(text); i++ {
		switch {
		case text[i] == '\\' && mark[0] == '"':
			i++
		case text[i] == '\n' && len(mark) == 1:
			return i
		case strings.HasPrefix(text[i:], mark):
			i += len(mark)
			for n := 0; len(mark) == 3 && n < 2 && strings.HasPrefix(text[i:], mark[:1]); n++ { // they may end in two more
				i++
			}
			return i
		}
	}
	return len(text)
}
