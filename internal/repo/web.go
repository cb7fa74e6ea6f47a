package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"prestage/ckm"
)

// Web is a repository on a web server: any that serves the folder's files,
// with ranges or without.
type Web struct {
	base   *url.URL // ends with /
	login  login
	client *http.Client

	mu   sync.Mutex
	kept map[string]keptFile // of files that are asked for again and again

	// Stall is how long a server may send nothing before the request is given
	// up and made anew, Retries how often that may happen in a row.
	Stall   time.Duration
	Retries int

	pause time.Duration // before the first further attempt, doubled for each one more
}

// NewWeb returns the repository at u. A user name and password in u are used
// for Basic authentication; who asks may also stand in the environment. Both are
// refused where they could be overheard. A server that asks for a Kerberos ticket
// gets one if neither is there.
func NewWeb(u *url.URL) (*Web, error) {
	who, err := newLogin(u)
	if err != nil {
		return nil, err
	}
	base := &url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	if !strings.HasSuffix(base.Path, "/") {
		base.Path += "/"
		if base.RawPath != "" {
			base.RawPath += "/"
		}
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableCompression = true // lengths and ranges are those of the stored bytes
	t.MaxIdleConnsPerHost = webReaders
	if err := clientCertificate(t); err != nil {
		return nil, err
	}
	return &Web{base: base, login: who, client: &http.Client{Transport: who.withTickets(t, base), CheckRedirect: checkRedirect},
		Stall: 30 * time.Second, Retries: 6, pause: time.Second / 4}, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// checkRedirect follows redirections, but not from where nobody can read or
// change what is sent to where others could.
func checkRedirect(req *http.Request, via []*http.Request) error {
	from := via[len(via)-1].URL
	switch {
	case len(via) > 10:
		return &fatalError{fmt.Errorf("%s: the server redirects without end", via[0].URL)}
	case req.URL.Scheme != "https" && (from.Scheme == "https" || req.URL.Scheme != "http"):
		return &fatalError{fmt.Errorf("%s: the server redirects to %s, which is not safe", via[0].URL, withoutUser(req.URL.String()))}
	}
	return nil
}

// String returns the address, without user name and password.
func (r *Web) String() string { return r.base.String() }

// List implements Repository by the server's catalog.json.
func (r *Web) List(ctx context.Context) ([]Entry, error) {
	b, err := r.getAgain(ctx, CatalogName, maxCatalog)
	if errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("%w; run \"prestage catalog\" on the folder that the server serves, or name the version (NAME:N)", err)
	}
	if err != nil {
		return nil, err
	}
	c, err := ParseCatalog(b)
	if err != nil && !bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")) {
		return nil, r.file(CatalogName).isNot("a catalog", b, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r, err)
	}
	return c.Images, nil
}

// Index implements Repository. What does not begin like an INDEX is refused
// without reading on.
func (r *Web) Index(ctx context.Context, name string, version uint32) ([]byte, error) {
	file := ckm.IndexName(name, version)
	return r.get(ctx, file, ckm.MaxIndexSize, func(head []byte) error {
		if _, err := ckm.HeadSize(head); err != nil {
			return r.file(file).isNot("an INDEX", head, err)
		}
		return nil
	})
}

// get fetches a whole file of at most limit bytes, whose first ones must
// please check. A file that is replaced meanwhile is read anew.
func (r *Web) get(ctx context.Context, file string, limit int64, check func(head []byte) error) ([]byte, error) {
	f, err := r.read(ctx, file, "", limit, check)
	return f.data, err
}

// keptFile is a file as a server sent it.
type keptFile struct {
	etag string
	data []byte
}

// getAgain is get for a file that is asked for again and again: it is sent only if
// it has changed. What it returns must not be changed.
func (r *Web) getAgain(ctx context.Context, file string, limit int64) ([]byte, error) {
	r.mu.Lock()
	kept := r.kept[file]
	r.mu.Unlock()
	f, err := r.read(ctx, file, kept.etag, limit, nil)
	if errors.Is(err, errHave) {
		return kept.data, nil
	}
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.kept == nil {
		r.kept = map[string]keptFile{}
	}
	r.kept[file] = f
	return f.data, nil
}

// read reads a whole file, unless its ETag is the one that we have: errHave.
func (r *Web) read(ctx context.Context, file, have string, limit int64, check func(head []byte) error) (keptFile, error) {
	for tries := 0; ; tries++ {
		f := r.file(file)
		f.have = have
		b, err := f.readAll(ctx, limit, check)
		if !errors.Is(err, errChanged) || tries >= r.Retries {
			return keptFile{f.etag, b}, err
		}
	}
}

// webReaders is how many ranges are fetched at once: enough to fill a link
// with a long round trip, few enough for a server with thousands of clients.
const webReaders = 4

// Data implements Repository. Its first request finds out the CKM's size and
// whether the server knows ranges.
func (r *Web) Data(ctx context.Context, name string, version uint32) (Data, error) {
	return r.open(ctx, ckm.DataName(name, version), ckm.HeaderSize, "a CKM", ckm.CheckHeader)
}

// Patch implements Repository.
func (r *Web) Patch(ctx context.Context, name string, version uint32) (Data, error) {
	return r.open(ctx, ckm.PatchName(name, version), ckm.PatchHeaderSize, "a patch", func(head []byte) error {
		_, err := ckm.ParsePatchHeader(head)
		return err
	})
}

// open opens a file, whose first bytes must please check.
func (r *Web) open(ctx context.Context, name string, size int64, what string, check func(head []byte) error) (Data, error) {
	f := r.file(name)
	body := f.reader(ctx, 0, size)
	defer body.Close()
	head := make([]byte, size)
	n, err := io.ReadFull(body, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	if err := check(head[:n]); err != nil {
		return nil, f.isNot(what, head[:n], err)
	}
	f.opened = true
	return f, nil
}

// file names a file of the server.
func (r *Web) file(name string) *webFile {
	return &webFile{web: r, url: r.base.String() + escape(name)}
}

// escape spells a name for a URL: it may hold characters that mean something there,
// and + means a space to some servers.
func escape(name string) string { return strings.ReplaceAll(url.PathEscape(name), "+", "%2B") }
