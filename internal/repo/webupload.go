package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"prestage/ckm"
)

// Upload is a package that is sent to a server.
type Upload struct {
	Encoded []byte // the INDEX
	Data    Data   // the CKM
	Patch   Data   // nil: there is none

	Add   func(n int64) // hears of bytes that need not be sent any more, or nil
	Limit *rate.Limiter // of bytes a second; nil: none
}

// Uploaded is what became of an upload.
type Uploaded struct {
	Already   bool   `json:"already"`    // the package was there before
	Patch     bool   `json:"patch"`      // its patch is there
	PatchLeft string `json:"patch_left"` // why its patch was left out, or ""
	Sent      int64  `json:"sent"`       // bytes
}

// Pieces of an upload, in bytes. A server, or what stands before it, may want
// smaller ones.
const (
	mostPiece  = 64 << 20
	leastPiece = 256 << 10
)

// uploading is an upload that is under way.
type uploading struct {
	web    *Web
	u      Upload
	x      *ckm.Index
	url    string
	piece  int64
	base   ckm.PatchHeader
	result Uploaded

	failures int   // in a row
	sent     int64 // of result at the last failure
	told     int64 // bytes that Add has heard of
}

// Upload sends a package, and goes on where an earlier attempt has ended. It is
// there when the error is nil, and only then. The error wraps ErrConflict when another
// package has its version, ErrUnavailable when the server refuses or is gone, and
// ckm.ErrMismatch when the server has found damage.
func (r *Web) Upload(ctx context.Context, u Upload) (Uploaded, error) {
	x, err := ckm.Decode(u.Encoded)
	if err != nil {
		return Uploaded{}, err
	}
	if size, err := u.Data.Size(); err != nil {
		return Uploaded{}, err
	} else if size != int64(x.CKMLength) {
		return Uploaded{}, fmt.Errorf("%w: %s has %d bytes, and should have %d; mend it with \"prestage repair\"", ckm.ErrMismatch, u.Data, size, x.CKMLength)
	}
	t := &uploading{web: r, u: u, x: x, piece: mostPiece,
		url: fmt.Sprintf("%s%s%s_%d/%s", r.base, UploadPath, escape(x.Name), x.Version, x.Digest())}
	if u.Patch != nil {
		head, err := u.Patch.ReadRange(ctx, 0, ckm.PatchHeaderSize)
		if err != nil {
			return Uploaded{}, err
		}
		defer head.Close()
		b, err := io.ReadAll(head)
		if err == nil {
			t.base, err = ckm.ParsePatchHeader(b)
		}
		if err != nil {
			return Uploaded{}, fmt.Errorf("%s: %w", u.Patch, err)
		}
	}
	for {
		done, err := t.step(ctx)
		if done && err == nil {
			return t.result, nil
		}
		if err != nil {
			if err := t.again(ctx, err); err != nil {
				return t.result, err
			}
		}
	}
}

// step looks how far the server is, and sends all that it lacks.
func (t *uploading) step(ctx context.Context) (done bool, err error) {
	var st UploadState
	if err := t.ask(ctx, http.MethodGet, &st); err != nil {
		return false, err
	}
	patch := t.patchWanted(&st)
	if st.Published && !patch && !t.moreSigned(&st) {
		t.result.Already = t.result.Already || t.result.Sent == 0
		return true, nil
	}
	t.result.Already = st.Published
	if !st.Index.Complete { // then the server knows what it lacks
		if err := t.part(ctx, UploadIndex, memory(t.u.Encoded), int64(len(t.u.Encoded)), st.Index, 0); err != nil {
			return false, err
		}
		if err := t.ask(ctx, http.MethodGet, &st); err != nil {
			return false, err
		}
	}
	before := int64(len(t.u.Encoded))
	if !st.Published {
		size := int64(t.x.CKMLength)
		if err := t.part(ctx, UploadData, t.u.Data, size, st.Data, before); err != nil {
			return false, err
		}
		before += size
	}
	if patch {
		size, err := t.u.Patch.Size()
		if err == nil {
			err = t.part(ctx, UploadPatch, t.u.Patch, size, st.Patch, before)
		}
		if err != nil {
			return false, err
		}
	}
	for {
		var now UploadState
		if err := t.ask(ctx, http.MethodPost, &now); err != nil {
			return false, err
		}
		if now.Published {
			t.result.Patch = patch || st.HasPatch
			return true, nil
		}
		if err := pause(ctx, t.web.pause); err != nil { // it has waited for some time
			return false, err
		}
	}
}

// moreSigned reports whether keys have signed the package that have not where it is
// published.
func (t *uploading) moreSigned(st *UploadState) bool {
	return slices.ContainsFunc(KeyIDs(t.x.Signatures), func(id string) bool { return !slices.Contains(st.SignedBy, id) })
}

// patchWanted reports whether the server should get the patch.
func (t *uploading) patchWanted(st *UploadState) bool {
	t.result.Patch, t.result.PatchLeft = st.HasPatch, ""
	switch {
	case t.u.Patch == nil || st.HasPatch:
		return false
	case st.Versions[t.base.BaseVersion] != t.base.Base.String():
		t.result.PatchLeft = fmt.Sprintf("it is based on %s, which is not there", ImageName(t.x.Name, t.base.BaseVersion))
		return false
	}
	return true
}

// part sends what the server lacks of a part. Before are the bytes of the parts
// before it.
func (t *uploading) part(ctx context.Context, part string, data pieces, size int64, at UploadPart, before int64) error {
	for !at.Complete && (at.Offset < size || part != UploadData) {
		t.tell(before + at.Offset)
		end := min(size, at.Offset+t.piece)
		if at.Until >= at.Offset && at.Until > 0 {
			end = min(end, at.Until)
		}
		next, err := t.send(ctx, part, data, at.Offset, end, size, before)
		if err != nil {
			return err
		}
		if next.Offset <= at.Offset && !next.Complete {
			return fmt.Errorf("the server does not get on with the %s", part)
		}
		at = next
		t.failures = 0
	}
	t.tell(before + size)
	return nil
}

// pieces is what pieces are read from.
type pieces interface {
	ReadRange(ctx context.Context, off, n int64) (io.ReadCloser, error)
}

type memory []byte

// ReadRange implements pieces.
func (m memory) ReadRange(_ context.Context, off, n int64) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(m[off : off+n])), nil
}

// send sends the bytes from off to end.
func (t *uploading) send(ctx context.Context, part string, data pieces, off, end, size, before int64) (next UploadPart, err error) {
	src, err := data.ReadRange(ctx, off, end-off)
	if err != nil {
		return next, &fatalError{err}
	}
	defer src.Close()
	body := &outflow{t: t, ctx: ctx, src: src, at: before + off}
	resp, b, err := t.do(ctx, http.MethodPatch, "/"+part, body, end-off, func(h http.Header) {
		h.Set("Content-Type", UploadType)
		h.Set(UploadOffset, strconv.FormatInt(off, 10))
		h.Set(UploadLength, strconv.FormatInt(size, 10))
		h.Set("Expect", "100-continue")
		if end == size {
			h.Set(UploadComplete, "?1")
		}
	})
	if body.err != nil {
		return next, &fatalError{body.err}
	}
	if err != nil {
		return next, err
	}
	switch code := resp.StatusCode; {
	case code == http.StatusNoContent:
	case code == http.StatusRequestEntityTooLarge && end-off > leastPiece:
		t.piece = max(leastPiece, (end-off)/4)
		return UploadPart{Offset: off, Complete: false}, errSmaller
	default:
		return next, t.refused(resp, b)
	}
	if next.Offset, err = strconv.ParseInt(resp.Header.Get(UploadOffset), 10, 64); err != nil || next.Offset > size {
		return next, &fatalError{unavailable{fmt.Errorf("%s: the server does not say how far it is; is there another program before it?", t.url)}}
	}
	next.Until, _ = strconv.ParseInt(resp.Header.Get(UploadUntil), 10, 64)
	next.Complete = resp.Header.Get(UploadComplete) == "?1"
	return next, nil
}

// errSmaller says that pieces are smaller from now on.
var errSmaller = errors.New("smaller pieces are wanted")

// outflow is the body of a request. The connection may still read from it when its
// answer is there.
type outflow struct {
	t   *uploading
	ctx context.Context
	src io.Reader
	at  int64 // of all that is to be sent

	dog *time.Timer // barks when nothing gets on
	mu  sync.Mutex
	end bool
	err error
}

// Read implements io.Reader.
func (o *outflow) Read(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.end {
		return 0, errors.New("the request is over")
	}
	if l := o.t.u.Limit; l != nil {
		p = p[:min(len(p), l.Burst())]
	}
	n, err := o.src.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		o.err = err
	}
	if l := o.t.u.Limit; l != nil && n > 0 {
		if err := l.WaitN(o.ctx, n); err != nil {
			return 0, err
		}
	}
	o.dog.Reset(o.t.web.Stall)
	o.at += int64(n)
	o.t.result.Sent += int64(n)
	o.t.tell(o.at)
	return n, err
}

// tell says how far all of it has come.
func (t *uploading) tell(at int64) {
	if t.u.Add != nil && at > t.told {
		t.u.Add(at - t.told)
		t.told = at
	}
}

// do makes a request, and reads the answer.
func (t *uploading) do(ctx context.Context, method, below string, body *outflow, n int64, header func(http.Header)) (*http.Response, []byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	dog := time.AfterFunc(t.web.Stall, func() { cancel(errStalled) })
	defer dog.Stop()
	var src io.Reader
	if body != nil {
		body.dog, src = dog, body
		defer func() {
			body.mu.Lock()
			defer body.mu.Unlock()
			body.end = true
		}()
		if n == 0 {
			src = http.NoBody
		}
	}
	resp, b, err := t.web.write(ctx, method, t.url+below, src, n, header)
	if errors.Is(context.Cause(ctx), errStalled) {
		err = fmt.Errorf("the server took nothing for %v", t.web.Stall)
	}
	return resp, b, err
}

// ask makes a request without a body, which is answered with a state.
func (t *uploading) ask(ctx context.Context, method string, st *UploadState) error {
	resp, b, err := t.do(ctx, method, "", nil, 0, func(http.Header) {})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted {
		return t.refused(resp, b)
	}
	if err := json.Unmarshal(b, st); err != nil || resp.Header.Get("Content-Type") != "application/json" {
		return &fatalError{unavailable{fmt.Errorf("%s is no server that takes uploads: use prestage serve", t.web)}}
	}
	return nil
}

// again waits before another attempt, or returns the error that ends them.
func (t *uploading) again(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var fatal *fatalError
	switch {
	case errors.As(err, &fatal):
		return fatal.err
	case errors.Is(err, errSmaller):
		return nil
	}
	var failed *url.Error
	if errors.As(err, &failed) {
		err = failed.Err
	}
	if isCut(err) {
		err = errors.New("the connection was cut")
	}
	if t.failures++; t.sent != t.result.Sent {
		t.sent, t.failures = t.result.Sent, 1
	}
	if t.failures > t.web.Retries {
		return unavailable{fmt.Errorf("uploading %s to %s (tried %d times): %w; run the same command again to go on", ImageName(t.x.Name, t.x.Version), t.web, t.failures, err)}
	}
	wait := min(t.web.pause<<min(t.failures-1, 10), 15*time.Second)
	var busy *busyError
	if errors.As(err, &busy) {
		wait = max(wait, min(busy.after, time.Minute))
	}
	return pause(ctx, wait)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
