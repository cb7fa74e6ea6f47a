package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"prestage/ckm"
)

// Web is a repository on a web server: any that serves the folder's files,
// with ranges or without.
type Web struct {
	base   *url.URL // ends with /
	user   *url.Userinfo
	client *http.Client

	// Stall is how long a server may send nothing before the request is given
	// up and made anew, Retries how often that may happen in a row.
	Stall   time.Duration
	Retries int
}

// NewWeb returns the repository at u. A user name and password in u are used
// for Basic authentication, which is refused where they could be overheard.
func NewWeb(u *url.URL) (*Web, error) {
	base := *u
	base.User, base.RawQuery, base.Fragment = nil, "", ""
	if !strings.HasSuffix(base.Path, "/") {
		base.Path += "/"
	}
	if u.User != nil && u.Scheme != "https" && !isLoopback(u.Hostname()) {
		return nil, fmt.Errorf("a password would go to %s unencrypted; use https", u.Host)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableCompression = true // lengths and ranges are those of the stored bytes
	t.ResponseHeaderTimeout = 30 * time.Second
	t.MaxIdleConnsPerHost = webReaders
	return &Web{base: &base, user: u.User, client: &http.Client{Transport: t}, Stall: 30 * time.Second, Retries: 6}, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// String returns the address, without user name and password.
func (r *Web) String() string { return r.base.String() }

// List implements Repository by the server's catalog.json.
func (r *Web) List(ctx context.Context) ([]Entry, error) {
	b, err := r.get(ctx, CatalogName, maxCatalog)
	if errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("%w; run \"prestage catalog\" on the folder that the server serves, or name the version (NAME:N)", err)
	}
	if err != nil {
		return nil, err
	}
	c, err := ParseCatalog(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r, err)
	}
	return c.Images, nil
}

// Index implements Repository.
func (r *Web) Index(ctx context.Context, name string, version uint32) ([]byte, error) {
	return r.get(ctx, ckm.IndexName(name, version), ckm.MaxIndexSize)
}

// get fetches a whole file of at most limit bytes.
func (r *Web) get(ctx context.Context, file string, limit int64) ([]byte, error) {
	f := &webFile{web: r, url: r.base.JoinPath(file).String()}
	body := f.reader(ctx, 0, -1)
	defer body.Close()
	b, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", f.url, limit)
	}
	return b, err
}

// webReaders is how many ranges are fetched at once: enough to fill a link
// with a long round trip, few enough for a server with thousands of clients.
const webReaders = 4

// Data implements Repository. Its first request finds out the CKM's size and
// whether the server knows ranges.
func (r *Web) Data(ctx context.Context, name string, version uint32) (Data, error) {
	f := &webFile{web: r, url: r.base.JoinPath(ckm.DataName(name, version)).String()}
	body := f.reader(ctx, 0, ckm.HeaderSize)
	defer body.Close()
	head := make([]byte, ckm.HeaderSize)
	n, err := io.ReadFull(body, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := ckm.CheckHeader(head[:n]); err != nil {
		return nil, fmt.Errorf("%s is not a CKM but begins with %q (an error page of the server?): %w", f.url, head[:min(n, 16)], err)
	}
	return f, nil
}

// webFile is a file on a web server.
type webFile struct {
	web      *Web
	url      string
	size     int64 // set by the first answer, -1 if it did not say
	noRanges bool  // likewise
}

func (f *webFile) String() string       { return f.url }
func (f *webFile) Close() error         { f.web.client.CloseIdleConnections(); return nil }
func (f *webFile) Size() (int64, error) { return f.size, nil }

func (f *webFile) Traits() Traits {
	if f.noRanges {
		return Traits{Readers: 1, MaxSpan: 1 << 62, MaxGap: 1 << 62}
	}
	return Traits{Readers: webReaders, MaxSpan: 16 << 20, MaxGap: 128 << 10}
}

// ReadRange implements Data.
func (f *webFile) ReadRange(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	return f.reader(ctx, off, n), nil
}

func (f *webFile) reader(ctx context.Context, off, n int64) *webReader {
	return &webReader{f: f, ctx: ctx, off: off, left: n}
}

// webReader reads a range and asks for what is missing after a cut or a stall.
type webReader struct {
	f    *webFile
	ctx  context.Context
	off  int64
	left int64 // bytes, or -1: up to the end

	body     io.ReadCloser
	cancel   context.CancelFunc
	watchdog *time.Timer
	failures int // in a row
}

func (r *webReader) Close() error {
	if r.body != nil {
		r.watchdog.Stop()
		r.body.Close()
		r.cancel()
		r.body = nil
	}
	return nil
}

// Read implements io.Reader.
func (r *webReader) Read(p []byte) (int, error) {
	for {
		if r.left == 0 || len(p) == 0 {
			return 0, io.EOF
		}
		if r.left > 0 {
			p = p[:min(int64(len(p)), r.left)]
		}
		err := error(nil)
		if r.body == nil {
			err = r.open()
		}
		if err == nil {
			var n int
			r.watchdog.Reset(r.f.web.Stall)
			n, err = r.body.Read(p)
			if n > 0 {
				r.off += int64(n)
				if r.left > 0 {
					r.left -= int64(n)
				}
				r.failures = 0
				return n, nil
			}
			if err == nil {
				continue
			}
			if errors.Is(err, io.EOF) {
				if r.left < 0 {
					return 0, io.EOF
				}
				err = io.ErrUnexpectedEOF
			}
		}
		if err := r.again(err); err != nil {
			return 0, err
		}
	}
}

// again waits before another attempt, or returns the error that ends them.
func (r *webReader) again(err error) error {
	stalled := r.body != nil && r.ctx.Err() == nil && errors.Is(err, context.Canceled)
	r.Close()
	if ctxErr := r.ctx.Err(); ctxErr != nil {
		return ctxErr
	}
	var fatal *fatalError
	if errors.As(err, &fatal) {
		return fatal.err
	}
	if stalled {
		err = fmt.Errorf("the server sent nothing for %v", r.f.web.Stall)
	}
	if r.failures++; r.failures > r.f.web.Retries {
		return fmt.Errorf("reading %s at %d (tried %d times): %w", r.f.url, r.off, r.failures, err)
	}
	wait := min(time.Second<<(r.failures-1)/4, 15*time.Second)
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
	ctx, cancel := context.WithCancel(r.ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.f.url, nil)
	if err != nil {
		cancel()
		return &fatalError{err}
	}
	req.Header.Set("User-Agent", "prestage")
	if u := r.f.web.user; u != nil {
		password, _ := u.Password()
		req.SetBasicAuth(u.Username(), password)
	}
	if r.left > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", r.off, r.off+r.left-1))
	} else if r.off > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", r.off))
	}
	resp, err := r.f.web.client.Do(req)
	if err != nil {
		cancel()
		return err
	}
	r.body, r.cancel = resp.Body, cancel
	r.watchdog = time.AfterFunc(r.f.web.Stall, cancel)
	if err := r.accept(resp); err != nil {
		return err
	}
	return nil
}

// accept looks at the answer's status and brings its body to the right place.
func (r *webReader) accept(resp *http.Response) error {
	fatal := func(format string, args ...any) error {
		return &fatalError{fmt.Errorf("%s: %w", r.f.url, fmt.Errorf(format, args...))}
	}
	switch resp.StatusCode {
	case http.StatusPartialContent:
		var first, last int64
		var total string
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/%s", &first, &last, &total); err != nil || first != r.off {
			return fatal("the server sent the range %q when asked for %s", resp.Header.Get("Content-Range"), resp.Request.Header.Get("Range"))
		}
		size, err := strconv.ParseInt(total, 10, 64)
		if err != nil {
			size = -1
		}
		r.f.learn(size, false)
		return nil
	case http.StatusOK:
		if resp.Request.Header.Get("Range") != "" {
			r.f.learn(resp.ContentLength, true)
		}
		// The whole file, though a range was asked for: pass over what lies before it.
		return r.discard(r.off)
	case http.StatusNotFound, http.StatusGone:
		return fatal("%w (the server answered %s)", ErrNotFound, resp.Status)
	case http.StatusUnauthorized, http.StatusForbidden:
		return fatal("the server refused: %s; check user name, password and rights", resp.Status)
	case http.StatusRequestedRangeNotSatisfiable:
		return fatal("the file on the server is shorter than it should be (%s)", resp.Status)
	case http.StatusTooManyRequests, http.StatusRequestTimeout, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		after, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		return &busyError{resp.Status, time.Duration(min(max(after, 0), 3600)) * time.Second}
	default:
		return fatal("the server answered %s", resp.Status)
	}
}

func (r *webReader) discard(n int64) error {
	for n > 0 {
		r.watchdog.Reset(r.f.web.Stall)
		m, err := io.CopyN(io.Discard, r.body, min(n, 1<<20))
		if n -= m; err != nil {
			return err
		}
	}
	return nil
}

// learn keeps what the first answer tells. Later answers may come while
// others read it.
func (f *webFile) learn(size int64, noRanges bool) {
	if f.size == 0 {
		f.size, f.noRanges = size, noRanges
	}
}
