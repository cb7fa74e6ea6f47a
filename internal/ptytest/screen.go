// Package ptytest is a terminal for tests: a pseudo terminal to run a program
// on, and the screen that a person would see.
package ptytest

import (
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"
)

// Screen interprets what is written to a terminal. It knows what the programs
// under test use, and remembers in Unknown what it does not know. Each
// character takes one column.
type Screen struct {
	mu            sync.Mutex
	width, height int
	rows          [][]rune // the last height of them are on the screen, the others scrolled off
	top           int      // of rows, the first on the screen
	row, col      int      // of the cursor, in rows
	rest          []byte   // of a sequence that was cut
	unknown       []string
}

// NewScreen returns an empty screen.
func NewScreen(width, height int) *Screen {
	return &Screen{width: width, height: height, rows: make([][]rune, 1)}
}

// Resize changes the size. Lines that are too long now are wrapped, and nothing
// is joined again, as terminals do it whose programs end their lines.
func (s *Screen) Resize(width, height int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var rows [][]rune
	row := 0
	for i, r := range s.rows {
		if i == s.row {
			row = len(rows)
		}
		for len(r) > width {
			rows, r = append(rows, r[:width:width]), r[width:]
		}
		rows = append(rows, r)
	}
	s.rows, s.row, s.width, s.height = rows, row, width, height
	s.col = min(s.col, width-1)
	s.top = max(len(rows)-height, 0)
}

// Write implements io.Writer.
func (s *Screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := append(s.rest, p...)
	for len(b) > 0 {
		n := s.step(b)
		if n == 0 {
			break
		}
		b = b[n:]
	}
	s.rest = append([]byte{}, b...)
	return len(p), nil
}

// step interprets the next character or sequence and returns its length, 0 if
// it is not complete.
func (s *Screen) step(b []byte) int {
	switch {
	case b[0] == '\r':
		s.col = 0
	case b[0] == '\n':
		s.down()
	case b[0] == 0x1b:
		return s.escape(b)
	case b[0] < ' ':
		s.unknown = append(s.unknown, fmt.Sprintf("%q", b[0]))
	default:
		if !utf8.FullRune(b) {
			return 0
		}
		r, n := utf8.DecodeRune(b)
		s.print(r)
		return n
	}
	return 1
}

func (s *Screen) print(r rune) {
	if s.col == s.width {
		s.col = 0
		s.down()
	}
	line := s.rows[s.row]
	for len(line) <= s.col {
		line = append(line, ' ')
	}
	line[s.col] = r
	s.rows[s.row] = line
	s.col++
}

func (s *Screen) down() {
	s.row++
	if s.row == len(s.rows) {
		s.rows = append(s.rows, nil)
	}
	s.top = max(s.top, s.row-s.height+1)
}

func (s *Screen) escape(b []byte) int {
	end := 2
	for end < len(b) && (b[end] < '@' || b[end] > '~') {
		end++
	}
	if end >= len(b) {
		return 0
	}
	n := 0
	fmt.Sscanf(string(b[2:end]), "%d", &n)
	switch seq := string(b[:end+1]); {
	case b[1] != '[':
		s.unknown = append(s.unknown, fmt.Sprintf("%q", seq))
	case b[end] == 'A':
		s.row = max(s.row-max(n, 1), s.top)
		s.col = min(s.col, s.width-1)
	case b[end] == 'K' && n == 0:
		s.cut()
	case b[end] == 'J' && n == 0:
		s.cut()
		s.rows = s.rows[:s.row+1]
	default:
		s.unknown = append(s.unknown, fmt.Sprintf("%q", seq))
	}
	return end + 1
}

// cut erases from the cursor to the end of its line.
func (s *Screen) cut() {
	s.rows[s.row] = s.rows[s.row][:min(s.col, len(s.rows[s.row]))]
}

// Text returns all lines, those that scrolled off first, without the empty ones
// at the end.
func (s *Screen) Text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, r := range s.rows {
		b.WriteString(strings.TrimRight(string(r), " ") + "\n")
	}
	text := strings.TrimRight(b.String(), "\n")
	if text != "" {
		text += "\n"
	}
	return text
}

// Cursor returns the cursor's line among those of Text, and its column.
func (s *Screen) Cursor() (row, col int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.row, s.col
}

// Unknown returns the control sequences that were not understood.
func (s *Screen) Unknown() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unknown
}
