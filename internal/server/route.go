package server

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/zeebo/blake3"

	"prestage/ckm"
	"prestage/internal/event"
	"prestage/internal/repo"
	"prestage/internal/server/access"
)

// How long caches may keep what they got, in the words of Cache-Control.
const (
	cacheForever = "max-age=31536000, immutable" // CKMs: they never change
	cacheShortly = "max-age=15"                  // what tells which packages there are; an INDEX may be signed anew
)

// retryAfter is when a client may try again, in seconds.
const retryAfter = "15"

// mostRanges is how many ranges of a file a request may ask for: who wants more
// wants trouble.
const mostRanges = 64

// handler returns what answers requests. Paths are compared, never joined: what a
// client sends does not reach the file system, but for the name of a package.
func (s *Server) handler() http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		remote, proxy := s.config.Proxies.remoteOf(r)
		line := s.pacer.Join(clientOf(remote))
		defer line.Leave()
		w := &answer{ResponseWriter: rw, ctx: r.Context(), proto: r.ProtoMajor, remote: remote, proxy: proxy, line: line, control: http.NewResponseController(rw),
			minRate: s.config.Limits.MinRate, stall: s.patience.stall, purpose: forOther, asked: r.Header.Get("Range")}
		s.metrics.running.Inc()
		defer s.metrics.running.Dec()
		defer s.record(w, r, begun)
		w.extend(0)
		s.route(w, r)
		s.settle(w, r)
	})
}

func (s *Server) route(w *answer, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.URL.Path == Prefix+event.Path {
		s.takeReport(w, r)
		return
	}
	if !s.sane(w, r) {
		return
	}
	name, below := strings.CutPrefix(r.URL.Path, Prefix)
	switch {
	case r.URL.Path == healthPath:
		say(w, http.StatusOK, "ok")
	case r.URL.Path == readyPath:
		s.sayReady(r.Context(), w)
	case r.URL.Path == "/", r.URL.Path+"/" == Prefix:
		http.Redirect(w, r, Prefix, http.StatusPermanentRedirect)
	case !below:
		fail(w, http.StatusNotFound)
	case !s.admit(w, r):
	case isWrite(r):
		s.write(w, r, name)
	case name == "":
		w.purpose = forListing
		s.list(w, r, "text/html; charset=utf-8", listing)
	case name == repo.CatalogName:
		w.purpose = forCatalog
		s.list(w, r, "application/json", catalog)
	case name == repo.PolicyName:
		w.purpose = forPolicy
		s.policy(w, r)
	default:
		s.file(w, r, name)
	}
}

// fail answers with an error, in a line for people.
func fail(w http.ResponseWriter, code int) {
	http.Error(w, fmt.Sprintf("%d %s", code, http.StatusText(code)), code)
}

// later answers that the same request may succeed in a while.
func later(w http.ResponseWriter, code int) {
	w.Header().Set("Retry-After", retryAfter)
	fail(w, code)
}

// file answers with a package's file.
func (s *Server) file(w *answer, r *http.Request, name string) {
	image, _, ext, ok := ckm.ParseFileName(name)
	if !ok {
		ext = ckm.PatchExt
		if image, _, ok = ckm.ParsePatchName(name); !ok {
			fail(w, http.StatusNotFound)
			return
		}
	}
	w.purpose = forPackage
	if !s.gate.MayRead(w.reader, image) {
		s.refuse(w)
		return
	}
	e, f, err := s.shelf.open(r.Context(), name)
	if err != nil {
		s.failShelf(w, r, err)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	cache := cacheShortly
	if ext == ckm.DataExt {
		cache = cacheForever
	}
	keep(w, cache, s.gate.MayRead(access.Nobody, image))
	tag, err := tagOf(e, ext, f)
	if err != nil {
		s.failShelf(w, r, err)
		return
	}
	// Tag and time follow from the package: they are the same wherever it is served.
	w.Header().Set("ETag", `"`+tag+ext+`"`)
	created := e.Created
	if created.After(time.Now()) {
		created = time.Time{} // RFC 9110, 8.8.2.1: not later than the answer
	}
	serve(w, r, created, f)
}

// tagOf tells versions of a package's file apart. A CKM never changes; an INDEX may
// be signed anew, and ends with its own digest; so does the head of a patch, which
// may be made anew.
func tagOf(e repo.Entry, ext string, f *os.File) (string, error) {
	var digest ckm.Digest
	end := int64(0)
	switch ext {
	case ckm.DataExt:
		return e.PackageDigest, nil
	case ckm.IndexExt:
		st, err := f.Stat()
		if err != nil {
			return "", err
		}
		end = st.Size()
	case ckm.PatchExt:
		head := make([]byte, ckm.PatchHeaderSize)
		if _, err := f.ReadAt(head, 0); err != nil {
			return "", err
		}
		h, err := ckm.ParsePatchHeader(head)
		if err != nil {
			return "", err
		}
		end = int64(h.Size)
	}
	_, err := f.ReadAt(digest[:], end-int64(len(digest)))
	return digest.String(), err
}

// failShelf answers to what the shelf could not do.
func (s *Server) failShelf(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, repo.ErrNotFound):
		fail(w, http.StatusNotFound)
	case r.Context().Err() != nil: // nobody listens
	default:
		s.config.Log.Error(fmt.Sprintf("the folder of packages cannot be read: %v", err))
		later(w, http.StatusServiceUnavailable)
	}
}

// list answers with what tells which packages there are, those that the reader may
// read.
func (s *Server) list(w *answer, r *http.Request, kind string, render func([]repo.Entry) []byte) {
	if !s.gate.MayLook(w.reader) {
		s.refuse(w)
		return
	}
	entries, err := s.shelf.list(r.Context())
	if err != nil {
		s.failShelf(w, r, err)
		return
	}
	s.small(w, r, kind, render(s.readable(entries, w.reader)))
}

// policy answers with what machines are to do. Who may see which packages there are
// may see that, too.
func (s *Server) policy(w *answer, r *http.Request) {
	if !s.gate.MayLook(w.reader) {
		s.refuse(w)
		return
	}
	b, err := repo.Policy(r.Context(), s.config.Folder)
	if err == nil && b == nil {
		err = repo.ErrNotFound
	}
	if err != nil {
		s.failShelf(w, r, err)
		return
	}
	s.small(w, r, "application/json", b)
}

// small answers with what is asked for again and again.
func (s *Server) small(w *answer, r *http.Request, kind string, b []byte) {
	sum := blake3.Sum256(b)
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	keep(w, cacheShortly, s.gate.Open())
	s.invite(w)
	w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:16])+`"`)
	serve(w, r, time.Time{}, bytes.NewReader(b))
}

// catalog makes catalog.json.
func catalog(entries []repo.Entry) []byte {
	return (&repo.Catalog{Format: 1, Images: entries}).Encode()
}

// serve is http.ServeContent that leaves out what RFC 9110 (14.2) says must be
// ignored: ranges of other units, and ranges of a HEAD request; and that refuses
// an excess of ranges (15.5.17).
func serve(w http.ResponseWriter, r *http.Request, modified time.Time, content io.ReadSeeker) {
	unit, ranges, _ := strings.Cut(r.Header.Get("Range"), "=")
	switch {
	case r.Method == http.MethodHead || !strings.EqualFold(unit, "bytes"):
		r.Header.Del("Range")
	case strings.Count(ranges, ",") >= mostRanges:
		fail(w, http.StatusRequestedRangeNotSatisfiable)
		return
	default:
		r.Header.Set("Range", "bytes="+ranges)
	}
	http.ServeContent(w, r, "", modified, content)
}
