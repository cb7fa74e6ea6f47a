package repo

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"prestage/ckm"
)

// manyChunks returns the INDEX of a package with many small chunks, which are
// numbers; of those from first to before end the next version has others.
func manyChunks(t *testing.T, version uint32, first, end int) []byte {
	t.Helper()
	const chunks, inFrame = 9000, 3
	x := &ckm.Index{Info: ckm.Info{Name: "many", Version: version, Created: 1, ChunkMin: 1, ChunkAvg: 16, ChunkMax: 16, FrameLimit: 256 << 10,
		Files: []ckm.File{{Path: "disk", Size: chunks * 16, Format: "raw"}}}}
	w, err := ckm.NewWriter(io.Discard, x)
	if err != nil {
		t.Fatal(err)
	}
	c := ckm.NewCompressor(ckm.LevelFast)
	r := rand.New(rand.NewPCG(uint64(version), 1))
	for i := 0; i < chunks; i += inFrame {
		var raw []byte
		var ids []ckm.ID
		var lengths []int
		for n := i; n < i+inFrame; n++ {
			p := make([]byte, 16)
			binary.BigEndian.PutUint64(p, uint64(n))
			if n >= first && n < end {
				binary.BigEndian.PutUint64(p[8:], r.Uint64())
			}
			raw, ids, lengths = append(raw, p...), append(ids, ckm.Sum(p)), append(lengths, len(p))
			x.Place(uint32(n), 0, uint64(n*16))
		}
		if err := w.WriteFrame(c.Append(nil, raw), ckm.CodecZstd, ids, lengths); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	b, err := x.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// signedIndex returns an INDEX with a signature, of the same length or longer.
func signedIndex(t *testing.T, encoded []byte) []byte {
	t.Helper()
	x, err := ckm.Decode(encoded)
	if err != nil {
		t.Fatal(err)
	}
	b, err := signed(x, func(x *ckm.Index) (err error) {
		x.Signatures, err = ckm.AddSignature(x.Signatures, ckm.Signature{Key: 1, Comment: "signed"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestIndexFrom fetches the INDEX of a version when another is there.
func TestIndexFrom(t *testing.T) {
	old := manyChunks(t, 1, 0, 0)
	other := manyChunks(t, 3, 0, 9000)
	now := manyChunks(t, 2, 4000, 4100)
	var sent, requests atomic.Int64
	serve := func(change func(w http.ResponseWriter, r *http.Request, b []byte) bool) *Web {
		sent.Store(0)
		requests.Store(0)
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			requests.Add(1)
			if !strings.HasSuffix(r.URL.Path, "/many_2.index") {
				http.NotFound(w, r)
				return
			}
			if change == nil || !change(w, r, now) {
				w.Header().Set("ETag", `"1"`)
				http.ServeContent(w, r, "", time.Unix(1, 0), bytes.NewReader(now))
			}
		}))
		t.Cleanup(s.Close)
		u, err := url.Parse(s.URL + "/")
		if err != nil {
			t.Fatal(err)
		}
		web, err := NewWeb(u)
		if err != nil {
			t.Fatal(err)
		}
		return web
	}
	get := func(r *Web, old []byte) int64 {
		t.Helper()
		b, fetched, err := IndexFrom(t.Context(), r, "many", 2, old)
		if err != nil || !bytes.Equal(b, now) {
			t.Fatalf("%d bytes that are not the INDEX's, %v", len(b), err)
		}
		return fetched
	}
	if n := get(serve(nil), nil); n != int64(len(now)) {
		t.Errorf("%d bytes were fetched of %d", n, len(now))
	}
	if n := get(serve(nil), old); n > int64(len(now))/4 || requests.Load() > 12 {
		t.Errorf("%d bytes of %d were fetched in %d requests, though nearly all are here", n, len(now), requests.Load())
	}
	// Nothing is in common: no more than the whole, but for what was looked at.
	if n := get(serve(nil), other); n > int64(len(now))*5/4 {
		t.Errorf("%d bytes of %d were fetched, where nothing is known", n, len(now))
	}
	if n := get(serve(nil), old[:len(old)/2]); n > int64(len(now)) {
		t.Errorf("%d bytes of %d were fetched, with half an INDEX", n, len(now))
	}
	get(serve(nil), bytes.Repeat([]byte{1}, 200_000))
	// A server without ranges; one that has another file for each request.
	get(serve(func(w http.ResponseWriter, _ *http.Request, b []byte) bool { w.Write(b); return true }), old)
	// The package is signed between two requests: the end is another one.
	signed := signedIndex(t, now)
	first := true
	web := serve(func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		if first {
			first = false
			return false
		}
		http.ServeContent(w, r, "", time.Unix(2, 0), bytes.NewReader(signed))
		return true
	})
	if b, _, err := IndexFrom(t.Context(), web, "many", 2, old); err != nil || !bytes.Equal(b, signed) {
		t.Errorf("%d bytes that are not the INDEX's, %v", len(b), err)
	}
	get(serve(func(w http.ResponseWriter, r *http.Request, b []byte) bool {
		if r.Header.Get("Range") == "" || strings.HasPrefix(r.Header.Get("Range"), "bytes=0-") {
			return false
		}
		w.Header().Set("ETag", `"2"`)
		http.ServeContent(w, r, "", time.Unix(2, 0), bytes.NewReader(bytes.Repeat([]byte{7}, len(b))))
		return true
	}), old)
}
