package repo

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"prestage/ckm"
)

// mostAnswer is how much of an answer to a write is read, in bytes: a state has a
// line for each version.
const mostAnswer = 1 << 20

// write makes a request that may change something, once, and reads its answer.
func (r *Web) write(ctx context.Context, method, url string, body io.Reader, n int64, header func(http.Header)) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, nil, &fatalError{err}
	}
	req.ContentLength = n
	req.Header.Set("User-Agent", "prestage")
	r.login.sign(req)
	header(req.Header)
	resp, err := r.client.Do(req)
	var certificate *tls.CertificateVerificationError
	if errors.As(err, &certificate) || errors.Is(err, http.ErrSchemeMismatch) || isRefused(err) {
		return nil, nil, &fatalError{unavailable{fmt.Errorf("%s: %w", url, err)}}
	}
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, mostAnswer))
	return resp, b, err
}

// reason returns what a server says in the body of an error, for people. It is one
// line, without what a terminal would take for orders.
func reason(resp *http.Response, b []byte) string {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") || !bytes.HasPrefix(line, []byte(resp.Status[:3])) {
		return resp.Status
	}
	text := strings.ToValidUTF8(string(line[:min(len(line), 1000)]), "?")
	return strings.Map(func(c rune) rune {
		if c < ' ' || c >= 0x7f && c < 0xa0 {
			return -1
		}
		return c
	}, text)
}

// refused is the error of an answer that does not say that all went well.
func (t *uploading) refused(resp *http.Response, b []byte) error {
	return t.web.writeRefused(resp, b, ImageName(t.x.Name, t.x.Version))
}

// refusal is an error of several kinds, in the words of one.
type refusal struct {
	text  string
	kinds []error
}

func (e *refusal) Error() string   { return e.text }
func (e *refusal) Unwrap() []error { return e.kinds }

func (r *Web) writeRefused(resp *http.Response, b []byte, image string) error {
	says := reason(resp, b)
	fatal := func(advice string, kinds ...error) error {
		return &fatalError{&refusal{fmt.Sprintf("%s: the server refused: %s%s", r, says, advice), kinds}}
	}
	switch code := resp.StatusCode; code {
	case http.StatusUnauthorized:
		return fatal("; check user name and password, or the token", ErrUnavailable)
	case http.StatusForbidden:
		return fatal(fmt.Sprintf("; to write %s, be among the writers in the file of serve --rights", image), ErrUnavailable)
	case http.StatusNotFound:
		if resp.Request.Method == http.MethodDelete {
			return fatal("", ErrNotFound)
		}
		if resp.Request.Method == http.MethodPost { // the upload went meanwhile
			return errors.New("the server has no such upload any more")
		}
		return fatal("; does prestage serve answer there, and is it as new as this program?", ErrUnavailable)
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return fatal("; does prestage serve answer there, and is it as new as this program?", ErrUnavailable)
	case http.StatusConflict:
		if resp.Header.Get(UploadComplete) == "?0" {
			return fmt.Errorf("the server answered %s", says) // it knows better how far it is
		}
		return fatal("", ErrConflict)
	case http.StatusRequestEntityTooLarge:
		return fatal("; if that is not the server's own limit, what stands before it takes no such requests (nginx: client_max_body_size)", ErrUnavailable)
	case http.StatusInsufficientStorage:
		return fatal("; make room there, for instance with \"prestage remove IMAGE:N --images "+r.String()+"\", and run the same command again to go on", ErrUnavailable)
	case http.StatusUnprocessableEntity:
		return fatal("; check the package with \"prestage verify\", and run the same command again", ckm.ErrMismatch)
	default:
		if isBusy(code) {
			return &busyError{says, retryAfter(resp)}
		}
		return fatal("", ErrUnavailable)
	}
}

// Remove removes a package from the server. The error wraps ErrNotFound when it is
// not there.
func (r *Web) Remove(ctx context.Context, name string, version uint32) error {
	ctx, cancel := context.WithTimeout(ctx, 2*r.Stall)
	defer cancel()
	resp, b, err := r.write(ctx, http.MethodDelete, r.file(ckm.IndexName(name, version)).url, nil, 0, func(http.Header) {})
	if err == nil && resp.StatusCode != http.StatusNoContent {
		err = r.writeRefused(resp, b, ImageName(name, version))
	}
	var fatal *fatalError
	if errors.As(err, &fatal) {
		return fatal.err
	}
	return err
}
