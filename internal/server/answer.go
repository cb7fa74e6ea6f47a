package server

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"prestage/internal/server/access"
	"prestage/internal/server/pace"
)

// answer is what a request is answered with. What goes through it goes at a pace,
// and must get on.
type answer struct {
	http.ResponseWriter
	ctx     context.Context
	proto   int        // 2: HTTP/2
	remote  string     // who asks
	proxy   string     // who has told so; "": it is the connection
	line    *pace.Line // nil: no limit
	minRate int64      // bytes a second that a client must take, after
	stall   time.Duration
	control *http.ResponseController

	code  int   // 0: nothing was sent yet
	bytes int64 // of the body

	received int64 // bytes of the request's body

	purpose string // what the request is for
	asked   string // the ranges that it is for
	reader  access.Reader
	problem error // why it is not what was asked for
}

// slice is how many bytes of a file are handed to the system at once, where no
// limit asks for less.
const slice = 256 << 10

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// WriteHeader implements http.ResponseWriter. What is said of a file is not said
// of an error: no cache is to keep that.
func (a *answer) WriteHeader(code int) {
	if code >= 400 {
		a.Header().Del("ETag")
		a.Header().Set("Cache-Control", "no-store")
	}
	if a.code == 0 {
		a.code = code
	}
	a.ResponseWriter.WriteHeader(code)
}

// await waits until n bytes may be sent, and gives the client some time to take
// them: what it takes buys it more.
func (a *answer) await(n int) error {
	if err := a.line.Wait(a.ctx, n); err != nil {
		return err
	}
	a.extend(n)
	return nil
}

// extend gives the client some time to take n bytes.
func (a *answer) extend(n int) {
	// An error says that the connection knows no time, as in some tests.
	a.control.SetWriteDeadline(time.Now().Add(a.stall + time.Duration(n)*time.Second/time.Duration(a.minRate)))
}

// part is how many of n bytes go at once.
func (a *answer) part(n int64) int64 {
	if a.line != nil {
		return min(n, pace.Slice)
	}
	return min(n, slice)
}

// Write implements io.Writer.
func (a *answer) Write(p []byte) (n int, err error) {
	if a.code == 0 {
		a.code = http.StatusOK
	}
	for len(p) > 0 && err == nil {
		now := p[:a.part(int64(len(p)))]
		if err := a.await(len(now)); err != nil {
			return n, err
		}
		var sent int
		sent, err = a.ResponseWriter.Write(now)
		n, p = n+sent, p[sent:]
		a.bytes += int64(sent)
	}
	return n, a.cut(err)
}

// ReadFrom implements io.ReaderFrom, which is how a part of a file is sent by the
// system, without passing through here. It goes through in slices, each a part of
// the file still.
func (a *answer) ReadFrom(src io.Reader) (n int64, err error) {
	to, direct := a.ResponseWriter.(io.ReaderFrom)
	whole, limited := src.(*io.LimitedReader)
	if !direct || !limited { // HTTP/2 has no such way
		return io.Copy(struct{ io.Writer }{a}, src)
	}
	if a.line == nil { // who waits for a turn is not to hold back the last bytes
		defer cork(a.ctx)()
	}
	// Else net/http reads the first bytes and sends them with the header: the pages of
	// the file that follow would be cut in two.
	a.control.Flush()
	for whole.N > 0 && err == nil {
		piece := &io.LimitedReader{R: whole.R, N: a.part(whole.N)}
		if err := a.await(int(piece.N)); err != nil {
			return n, err
		}
		var sent int64
		sent, err = to.ReadFrom(piece)
		n += sent
		whole.N -= sent
		a.bytes += sent
		if piece.N > 0 {
			break // the file has been cut short
		}
	}
	return n, a.cut(err)
}

// cut notes that a client has taken too long, if err says so. Over HTTP/2 that is
// the end of a stream, not of the connection.
func (a *answer) cut(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		a.problem = errors.New("the client was too slow")
		if a.proto < 2 {
			abandon(a.ctx)
		}
	} else if err != nil {
		a.problem = err
	}
	return err
}
