package repo

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"prestage/ckm"
)

// webFile is a file on a web server.
type webFile struct {
	web      *Web
	url      string
	got      atomic.Int64 // bytes received by all readers together
	size     int64        // of the first answer, -1 if it did not say
	noRanges bool         // likewise
	opened   bool         // the first answer is there: size and noRanges stay as they are
	have     string       // ETag of a copy that need not be sent again
	etag     string       // of what readAll has read
}

func (f *webFile) String() string       { return f.url }
func (f *webFile) Close() error         { f.web.client.CloseIdleConnections(); return nil }
func (f *webFile) Size() (int64, error) { return f.size, nil }

func (f *webFile) Traits() Traits {
	if f.noRanges {
		return Traits{Readers: 1, MaxSpan: 1 << 62, MaxGap: 1 << 62}
	}
	return Traits{Readers: webReaders, MaxSpan: 16 << 20, MaxGap: 96 << 10}
}

// ReadRange implements Data.
func (f *webFile) ReadRange(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	return f.reader(ctx, off, n), nil
}

func (f *webFile) reader(ctx context.Context, off, n int64) *webReader {
	return &webReader{f: f, ctx: ctx, off: off, left: n, whole: n < 0}
}

// readAll reads the whole file, see Web.get.
func (f *webFile) readAll(ctx context.Context, limit int64, check func(head []byte) error) ([]byte, error) {
	body := f.reader(ctx, 0, -1)
	defer body.Close()
	head := make([]byte, 64)
	n, err := io.ReadFull(body, head)
	if err != nil && !isCut(err) {
		return nil, err
	}
	head, f.etag = head[:n], body.etag
	if check != nil {
		if err := check(head); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return head, nil // that was all
	}
	b, err := io.ReadAll(io.MultiReader(bytes.NewReader(head), io.LimitReader(body, limit+1-int64(n))))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%w: %s is larger than %d bytes", ckm.ErrFormat, f.url, limit)
	}
	return b, nil
}

// isNot is the error for a file that begins with head, not like what it should be.
func (f *webFile) isNot(what string, head []byte, err error) error {
	if errors.Is(err, ckm.ErrUnsupported) {
		return fmt.Errorf("%s: %w", f.url, err)
	}
	return fmt.Errorf("%s is not %s but begins with %q (an error page of the server?): %w", f.url, what, head[:min(len(head), 64)], err)
}

// webReader reads a range and asks for what is missing after a cut or a stall.
type webReader struct {
	f     *webFile
	ctx   context.Context
	off   int64
	left  int64  // bytes, or -1: up to the end
	whole bool   // up to the end of a file that must not change meanwhile
	tag   string // of the file in the first answer
	etag  string // of the last one
	end   int64  // size of the file by the last answer, -1 if it did not say

	request  context.Context // of the answer that is being read, or nil
	cancel   context.CancelCauseFunc
	watchdog *time.Timer // cancels request
	body     io.ReadCloser

	failures int   // in a row
	got      int64 // of f at the last failure
}

// errStalled is why the watchdog cancels a request.
var errStalled = errors.New("stalled")

// errHave says that the copy that we have is still the file.
var errHave = errors.New("not modified")

// errChanged says that a file is not the one that the first answer was about.
var errChanged = errors.New("the file on the server was replaced while it was read")

func (r *webReader) Close() error {
	if r.request == nil {
		return nil
	}
	r.watchdog.Stop()
	if r.body != nil {
		r.body.Close()
	}
	r.cancel(nil)
	r.request, r.body = nil, nil
	return nil
}

// Read implements io.Reader.
func (r *webReader) Read(p []byte) (int, error) {
	for {
		if r.left == 0 {
			return 0, io.EOF
		}
		if r.left > 0 {
			p = p[:min(int64(len(p)), r.left)]
		}
		if len(p) == 0 {
			return 0, nil
		}
		n, err := r.try(p)
		if n > 0 {
			r.f.got.Add(int64(n))
			r.off += int64(n)
			if r.left > 0 {
				r.left -= int64(n)
			}
			r.failures = 0
			return n, nil
		}
		if err != nil {
			if err := r.again(err); err != nil {
				return 0, err
			}
		}
	}
}

// try reads some bytes of the range, after making the request if there is
// none. No bytes and no error mean that left has changed.
func (r *webReader) try(p []byte) (int, error) {
	if r.body == nil {
		left := r.left
		if err := r.open(); err != nil || left != r.left {
			return 0, err
		}
	}
	n, err := r.receive(p)
	switch {
	case n > 0:
		return n, nil
	case r.left < 0 && errors.Is(err, io.EOF):
		r.left = 0
		return 0, nil
	case r.end >= 0 && r.off >= r.end && errors.Is(err, io.EOF):
		return 0, r.tooShort()
	}
	return 0, err
}

// receive reads from the answer. Only while it waits does the watchdog run:
// whoever takes his time to use the bytes is not the server's fault. A server
// that sends a byte now and then is slow, but not stalled.
func (r *webReader) receive(p []byte) (n int, err error) {
	r.watchdog.Reset(r.f.web.Stall)
	defer r.watchdog.Stop()
	for n == 0 && err == nil {
		n, err = r.body.Read(p)
	}
	return n, err
}

// again waits before another attempt, or returns the error that ends them.
func (r *webReader) again(err error) error {
	stalled := r.request != nil && errors.Is(context.Cause(r.request), errStalled)
	r.Close()
	if ctxErr := r.ctx.Err(); ctxErr != nil {
		return ctxErr
	}
	var fatal *fatalError
	if errors.As(err, &fatal) {
		return fatal.err
	}
	var failed *url.Error
	switch {
	case stalled:
		err = fmt.Errorf("the server sent nothing for %v", r.f.web.Stall)
	case isCut(err):
		err = errors.New("the connection was cut")
	case errors.As(err, &failed):
		err = failed.Err // without the address, which follows
	}
	r.failures++
	if got := r.f.got.Load(); got != r.got {
		// Others get bytes meanwhile: the server lives, and may only want to be
		// asked for less at once.
		r.got, r.failures = got, min(r.failures, max(r.f.web.Retries, 1))
	}
	if r.failures > r.f.web.Retries {
		return unavailable{fmt.Errorf("reading %s from byte %d on (tried %d times): %w", r.f.url, r.off, r.failures, err)}
	}
	wait := min(r.f.web.pause<<min(r.failures-1, 10), 15*time.Second)
	var busy *busyError
	if errors.As(err, &busy) {
		wait = max(wait, min(busy.after, time.Minute))
	}
	select {
	case <-time.After(wait):
		return nil
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
}

// unavailable is an error that is ErrUnavailable.
type unavailable struct{ error }

func (u unavailable) Unwrap() error        { return u.error }
func (u unavailable) Is(target error) bool { return target == ErrUnavailable }

// fatalError is one that another attempt cannot mend.
type fatalError struct{ err error }

func (e *fatalError) Error() string { return e.err.Error() }

// busyError is a server's wish to be asked later.
type busyError struct {
	status string
	after  time.Duration
}

func (e *busyError) Error() string { return "the server answered " + e.status }

// open makes the request for what is left.
func (r *webReader) open() error {
	r.request, r.cancel = context.WithCancelCause(r.ctx)
	cancel := r.cancel
	r.watchdog = time.AfterFunc(r.f.web.Stall, func() { cancel(errStalled) })
	req, err := http.NewRequestWithContext(r.request, http.MethodGet, r.f.url, nil)
	if err != nil {
		return &fatalError{err}
	}
	req.Header.Set("User-Agent", "prestage")
	req.Header.Set("Accept-Encoding", "identity")
	r.f.web.login.sign(req)
	if r.left > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", r.off, r.off+r.left-1))
	} else if r.off > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", r.off))
	} else if r.f.have != "" {
		req.Header.Set("If-None-Match", r.f.have)
	}
	resp, err := r.f.web.client.Do(req)
	var certificate *tls.CertificateVerificationError
	if invalid := (x509.CertificateInvalidError{}); errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		err = fmt.Errorf("%w; renew the server's certificate, unless this machine's clock is wrong", err)
	}
	if errors.As(err, &certificate) || errors.Is(err, http.ErrSchemeMismatch) || isRefused(err) {
		return &fatalError{unavailable{fmt.Errorf("%s: %w", r.f.url, err)}}
	}
	if err != nil {
		return err
	}
	r.body = resp.Body
	return r.accept(resp)
}

// maxPass is how many bytes before the wanted ones are passed over when a
// server that knows ranges sends a whole file all the same.
const maxPass = 64 << 20

// accept looks at the answer's status and brings its body to the right place.
func (r *webReader) accept(resp *http.Response) error {
	fatal := func(format string, args ...any) error {
		return &fatalError{unavailable{fmt.Errorf("%s: %w", r.f.url, fmt.Errorf(format, args...))}}
	}
	asked := resp.Request.Header.Get("Range")
	r.end = -1
	switch code := resp.StatusCode; {
	case code == http.StatusPartialContent:
		var first, last int64
		var total string
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/%s", &first, &last, &total); err != nil || first != r.off {
			return fatal("the server sent the range %q when asked for %q", resp.Header.Get("Content-Range"), asked)
		}
		if size, err := strconv.ParseInt(total, 10, 64); err == nil && size > r.off {
			r.end = size
		}
		if r.left < 0 && r.end > 0 {
			r.left = r.end - r.off // it need not send all of it at once
		}
		r.f.learn(r.end, false)
		return r.same(resp)
	case code == http.StatusOK:
		r.end = resp.ContentLength
		if asked != "" {
			r.f.learn(resp.ContentLength, true)
		}
		if err := r.same(resp); err != nil {
			return err
		}
		if r.end >= 0 && r.end < r.off+max(0, min(1, r.left)) {
			return r.tooShort()
		}
		if !r.f.noRanges && r.off > maxPass {
			return errors.New("the server sent the whole file when asked for a part")
		}
		return r.pass(r.off)
	case code == http.StatusNotModified && r.f.have != "":
		return &fatalError{errHave}
	case code == http.StatusNotFound, code == http.StatusGone:
		return fatal("%w (the server answered %s)", ErrNotFound, resp.Status)
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return fatal("the server refused: %s; check user name, password and rights, or the token", resp.Status)
	case code == http.StatusRequestedRangeNotSatisfiable:
		if r.whole && resp.Header.Get("Content-Range") == fmt.Sprintf("bytes */%d", r.off) {
			r.left = 0 // all was there when the connection was cut
			return nil
		}
		return r.tooShort()
	case isBusy(code):
		return &busyError{resp.Status, retryAfter(resp)}
	default:
		return fatal("the server answered %s", resp.Status)
	}
}

// isBusy reports whether a status may be another one next time.
func isBusy(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported, http.StatusNetworkAuthenticationRequired:
		return false
	}
	return code >= 500 // also what gateways make up, up to 599
}

// retryAfter returns how long the server asks to be left alone: it says a
// number of seconds, or a time.
func retryAfter(resp *http.Response) time.Duration {
	s := resp.Header.Get("Retry-After")
	if n, err := strconv.Atoi(s); err == nil {
		return time.Duration(min(max(n, 0), 3600)) * time.Second
	}
	if at, err := http.ParseTime(s); err == nil {
		return time.Until(at)
	}
	return 0
}

func (r *webReader) tooShort() error {
	return &fatalError{fmt.Errorf("%s: the file on the server ends before byte %d: %w", r.f.url, r.off, io.ErrUnexpectedEOF)}
}

// same refuses to go on with other bytes than those that the file began with,
// and bytes that are not the file's.
func (r *webReader) same(resp *http.Response) error {
	switch coding := strings.ToLower(resp.Header.Get("Content-Encoding")); coding {
	case "gzip", "x-gzip", "deflate", "compress", "br", "zstd":
		return &fatalError{unavailable{fmt.Errorf("%s: the server sends it compressed (Content-Encoding: %s), which must be switched off for packages", r.f.url, coding)}}
	}
	r.etag = resp.Header.Get("ETag")
	tag := r.etag + resp.Header.Get("Last-Modified")
	if r.whole && r.tag != "" && tag != r.tag {
		return &fatalError{fmt.Errorf("%s: %w", r.f.url, errChanged)}
	}
	r.tag = tag
	return nil
}

// isCut reports whether err says that an answer ended too early.
func isCut(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// pass reads n bytes of the answer for nothing.
func (r *webReader) pass(n int64) error {
	buf := make([]byte, 32<<10)
	for n > 0 {
		m, err := r.receive(buf[:min(n, int64(len(buf)))])
		n -= int64(m)
		if n > 0 && errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		}
		if n > 0 && err != nil {
			return err
		}
	}
	return nil
}

// learn keeps what the first answer tells.
func (f *webFile) learn(size int64, noRanges bool) {
	if !f.opened {
		f.size, f.noRanges = size, noRanges
	}
}
