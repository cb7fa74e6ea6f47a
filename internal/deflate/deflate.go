// Package deflate takes the members of gzip files and zip archives apart, and makes
// them anew: their DEFLATE data (RFC 1951), bit for bit as the programs made it that
// nearly all of it comes from, the library zlib and GNU gzip. Many encoders write valid
// data; these two must write the same, so they are held to each decision of theirs:
// which matches are found and taken, where blocks end, how trees are built and sent.
package deflate

import (
	"bytes"
	"errors"
)

// Maker is the program that made a member and its level, as far as the member's bytes
// depend on that: Zlib or Gzip, plus a level from MinLevel to MaxLevel.
type Maker byte

// The programs.
const (
	Zlib Maker = 0x00 // with memLevel 8 and the default strategy, as all but everybody uses it
	Gzip Maker = 0x10 // Info-ZIP's zip makes the same
)

// Levels of compression that there are. Lower ones choose matches in another way, and
// are rare in what systems are installed from.
const (
	MinLevel = 4
	MaxLevel = 9
)

// Valid reports whether there is such a maker.
func (m Maker) Valid() bool {
	program, level := m&0xf0, m&0x0f
	return (program == Zlib || program == Gzip) && level >= MinLevel && level <= MaxLevel
}

// Encoder makes members. Its zero value can be used, by one goroutine at a time.
type Encoder struct {
	matcher
	block
	want    []byte // what the member must begin like; nil: anything
	scratch []byte // for members that nobody gets
}

// ErrWork says that a member takes too much work to make.
var ErrWork = errors.New("a member takes too much work to make")

// mostSteps is how many places may be tried for a byte, on average; some ten are usual.
// Without a bound, some MiB that repeat themselves in a certain way take minutes.
const mostSteps = 200

// Append appends to dst the member that a maker, which must be valid, makes of in. The
// error is ErrWork.
func (e *Encoder) Append(dst, in []byte, m Maker) ([]byte, error) {
	e.out, e.want = dst, nil
	done := e.encode(in, m)
	dst, e.out, e.in = e.out, nil, nil
	if !done {
		return dst, ErrWork
	}
	return dst, nil
}

// Makes reports whether a maker, which must be valid, makes that member of in, and
// Append could do it. It ends at the first block that differs.
func (e *Encoder) Makes(member, in []byte, m Maker) bool {
	e.out, e.want = e.scratch[:0], member
	same := e.encode(in, m) && len(e.out) == len(member)
	e.scratch, e.out, e.in, e.want = e.out, nil, nil, nil
	return same
}

// encode goes through the input and takes the matches that are not followed by a
// longer one. It reports false if it gave up.
func (e *Encoder) encode(in []byte, m Maker) bool {
	e.matcher.begin(in, m)
	e.block.begin(m)
	length := minMatch - 1 // of the match at the position before
	pending := false       // the byte before is in no match yet
	most := mostSteps * (len(in) + windowSize)
	for e.fill(); e.ahead > 0; e.fill() {
		if e.steps > most {
			return false
		}
		head := e.insert(e.pos)
		before, beforeAt := length, e.at
		length = minMatch - 1
		if head != 0 && before < e.lazy && e.pos-head <= maxDistance && e.pos <= 2*windowSize-minAhead {
			length = e.longest(head, before)
			if length == minMatch && e.pos-e.at > tooFar {
				length--
			}
		}
		switch {
		case before >= minMatch && length <= before:
			full := e.match(e.pos-1-beforeAt, before, e.pos-e.begun)
			for range before - 2 {
				e.pos++
				e.insert(e.pos)
			}
			e.pos++
			e.ahead -= before - 1
			pending, length = false, minMatch-1
			if full && !e.flush(false) {
				return false
			}
		case pending:
			if e.literal(e.window[e.pos-1], e.pos-e.begun) && !e.flush(false) {
				return false
			}
			e.pos++
			e.ahead--
		default:
			pending = true
			e.pos++
			e.ahead--
		}
	}
	if pending {
		e.literal(e.window[e.pos-1], e.pos-e.begun)
	}
	return e.flush(true)
}

// flush writes the block that ends before the current position. It reports false
// if what was written is not what was wanted.
func (e *Encoder) flush(last bool) bool {
	length := e.pos - e.begun
	var stored []byte
	if e.begun >= 0 {
		stored = e.window[e.begun:e.pos]
	}
	e.block.end(stored, length, last)
	e.begun = e.pos
	return e.want == nil || bytes.HasPrefix(e.want, e.out)
}
