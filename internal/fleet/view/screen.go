package view

import (
	"bytes"
	"fmt"

	"github.com/mattn/go-runewidth"
)

// screen is the part of a terminal that we draw on: the lines above the cursor,
// which is at the begin of its line. Nothing else of the terminal is changed,
// so that there is nothing to put back when the program is killed.
type screen struct {
	drawn []int // widths of the lines
}

// frame returns what replaces the lines that were drawn by others. Text is for
// ever: it goes above them. All of it is one write, so that nothing flickers.
func (s *screen) frame(text []byte, lines []string, size func() (width, height int)) []byte {
	if len(s.drawn)+len(text)+len(lines) == 0 {
		return nil
	}
	var b bytes.Buffer
	if rows := s.rows(size()); rows > 0 {
		fmt.Fprintf(&b, "\r\x1b[%dA", rows)
	}
	if len(text) > 0 {
		b.WriteString("\r\x1b[J")
		b.Write(text)
	}
	s.drawn = s.drawn[:0]
	for _, l := range lines {
		b.WriteString("\r" + l + "\x1b[K\n")
		s.drawn = append(s.drawn, runewidth.StringWidth(l))
	}
	b.WriteString("\r\x1b[J")
	return b.Bytes()
}

// rows returns how many rows of the terminal the lines take. When it was made
// narrower since, it has wrapped them, as most terminals do.
func (s *screen) rows(width, height int) (n int) {
	for _, w := range s.drawn {
		n += max((w+width-1)/width, 1)
	}
	return min(n, height-1)
}
