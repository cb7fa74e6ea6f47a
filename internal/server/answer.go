package server

import (
	"io"
	"net/http"

	"prestage/internal/server/access"
)

// answer is what a request is answered with.
type answer struct {
	http.ResponseWriter
	code  int   // 0: nothing was sent yet
	bytes int64 // of the body

	reader  access.Reader
	problem error // why the reader was not believed
}

// slice is how many bytes of a file are handed to the system at once.
const slice = 1 << 20

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

// Write implements io.Writer.
func (a *answer) Write(p []byte) (int, error) {
	if a.code == 0 {
		a.code = http.StatusOK
	}
	n, err := a.ResponseWriter.Write(p)
	a.bytes += int64(n)
	return n, err
}

// ReadFrom implements io.ReaderFrom, which is how a part of a file is sent by the
// system, without passing through here. It goes through in slices, each a part of
// the file still.
func (a *answer) ReadFrom(src io.Reader) (n int64, err error) {
	to, direct := a.ResponseWriter.(io.ReaderFrom)
	part, limited := src.(*io.LimitedReader)
	if !direct || !limited { // HTTP/2 has no such way
		return io.Copy(struct{ io.Writer }{a}, src)
	}
	for part.N > 0 && err == nil {
		piece := &io.LimitedReader{R: part.R, N: min(part.N, slice)}
		var sent int64
		sent, err = to.ReadFrom(piece)
		n += sent
		part.N -= sent
		a.bytes += sent
		if piece.N > 0 {
			break // the file has been cut short
		}
	}
	return n, err
}
