package prestage_test

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"prestage/ckm"
	"prestage/internal/disk"
	"prestage/internal/host"
	"prestage/internal/localhost"
	"prestage/internal/pack"
	"prestage/internal/prestage"
	"prestage/internal/progress"
	"prestage/internal/repo"
	"prestage/internal/settings"
	"prestage/internal/testenv"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// packed returns a folder with a package of some MiB, and its index.
func packed(t *testing.T) (*repo.Folder, *ckm.Index) {
	image := filepath.Join(t.TempDir(), "disk.img")
	must(t, os.WriteFile(image, testenv.Random(1, 8<<20), 0o644))
	files, err := disk.Open(image)
	must(t, err)
	defer files[0].Close()
	r := repo.NewFolder(t.TempDir())
	x, _, err := r.Add(t.Context(), "win11", func(w io.Writer) (*ckm.Index, error) {
		return pack.Write(t.Context(), w, files, pack.Options{Meter: progress.Discard})
	})
	must(t, err)
	return r, x
}

// flawed is a machine whose disk changes what is written to it.
type flawed struct {
	*localhost.Host
	at   int64        // the byte that is changed, none if negative
	read atomic.Int64 // bytes that were read back from CKMs
}

func (h *flawed) OpenWrite(ctx context.Context, path string) (host.File, error) {
	f, err := h.Host.OpenWrite(ctx, path)
	return &flawedFile{f, h, path}, err
}

func (h *flawed) Open(ctx context.Context, path string) (host.File, error) {
	f, err := h.Host.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	return &flawedFile{f, h, path}, nil
}

type flawedFile struct {
	host.File
	h    *flawed
	path string
}

func (f *flawedFile) ckm() bool { return strings.Contains(f.path, ckm.DataExt) }

func (f *flawedFile) WriteAt(p []byte, off int64) (int, error) {
	if i := f.h.at - off; f.ckm() && f.h.at >= 0 && i >= 0 && i < int64(len(p)) {
		p = append([]byte(nil), p...)
		p[i] ^= 1
	}
	return f.File.WriteAt(p, off)
}

func (f *flawedFile) ReadAt(p []byte, off int64) (int, error) {
	if f.ckm() {
		f.h.read.Add(int64(len(p)))
	}
	return f.File.ReadAt(p, off)
}

func newFlawed(t *testing.T, at int64) *flawed {
	dir := t.TempDir()
	h := &flawed{Host: localhost.New(settings.File(filepath.Join(dir, "prestage.toml"))), at: at}
	_, err := prestage.Setup(t.Context(), h, dir, "")
	must(t, err)
	return h
}

// What is written wrongly is found by reading it all back, and by a sample if it
// is at the start; nothing finds it if nothing is read.
func TestHows(t *testing.T) {
	r, x := packed(t)
	for _, c := range []struct {
		how   string
		at    int64
		found bool
		read  float64 // at least such a part of the CKM
	}{
		{prestage.HowReadback, 5 << 20, true, 1},
		{prestage.HowSample, 100, true, 0},
		{prestage.HowNone, 5 << 20, false, 0},
		{prestage.HowReadback, -1, false, 1},
		{prestage.HowHost, -1, false, 1}, // there is nothing that could do it
		{prestage.HowSample, -1, false, 0},
	} {
		h := newFlawed(t, c.at)
		done, err := prestage.Push(t.Context(), h, r, "win11", 1, prestage.PushOptions{How: c.how})
		st, stErr := prestage.GetStatus(t.Context(), h)
		must(t, stErr)
		if c.found {
			if !errors.Is(err, prestage.ErrDamaged) || len(st.Packages) > 0 || len(st.Unfinished) > 0 {
				t.Errorf("%s, wrong at %d: %v, %+v", c.how, c.at, err, st)
			}
			continue
		}
		must(t, err)
		want := c.how
		if want == prestage.HowHost {
			want = prestage.HowReadback
		}
		p := st.Packages[0]
		if done.Receipt.How != want || p.How != want || (p.Verified == nil) != (want == prestage.HowNone) || !st.OK() {
			t.Errorf("%s: the receipt is %+v, the status %+v", c.how, done.Receipt, p)
		}
		if part := float64(h.read.Load()) / float64(x.CKMLength); part < c.read || c.read == 0 && part > 0.5 {
			t.Errorf("%s: %.2f of the CKM was read", c.how, part)
		}
	}
}

// A weaker proof does not stand for a stronger one; a stronger one does.
func TestStronger(t *testing.T) {
	r, _ := packed(t)
	h := newFlawed(t, -1)
	for _, c := range []struct {
		how     string
		already bool
		receipt string
	}{
		{prestage.HowNone, false, prestage.HowNone},
		{prestage.HowNone, true, prestage.HowNone},
		{prestage.HowSample, false, prestage.HowSample},
		{prestage.HowReadback, false, prestage.HowReadback},
		{prestage.HowSample, true, prestage.HowReadback},
		{prestage.HowHost, true, prestage.HowReadback},
	} {
		done, err := prestage.Push(t.Context(), h, r, "win11", 1, prestage.PushOptions{How: c.how})
		must(t, err)
		if done.Already != c.already || done.Receipt.How != c.receipt {
			t.Errorf("%s: already %v, receipt %s", c.how, done.Already, done.Receipt.How)
		}
	}
}

// knowing is a machine that can check files itself.
type knowing struct {
	*flawed
	digest, sum string
	err         error
	asked       []string
}

func (k *knowing) CheckPackage(_ context.Context, index, data string, alive func()) (string, error) {
	alive()
	k.asked = append(k.asked, "prestage")
	return k.digest, k.err
}

func (k *knowing) Sum(_ context.Context, path string, alive func()) (string, error) {
	k.asked = append(k.asked, "sha256sum")
	return k.sum, nil
}

// What the machine can check itself is not read over the network, unless its
// check fails.
func TestChecker(t *testing.T) {
	r, x := packed(t)
	right, sum := x.Digest().String(), hex.EncodeToString(x.CKMSHA256[:])
	none := errors.ErrUnsupported
	for name, c := range map[string]struct {
		how, digest, sum string
		err              error
		receipt          string // "": damage
		asked            string
	}{
		"prestage":          {prestage.HowReadback, right, "", nil, prestage.HowHost, "prestage"},
		"prestage, damage":  {prestage.HowReadback, "", "", nil, "", "prestage"},
		"another package":   {prestage.HowReadback, sum, "", nil, "", "prestage"},
		"no prestage":       {prestage.HowReadback, "", sum, none, prestage.HowReadback, "prestage"},
		"it breaks":         {prestage.HowReadback, "", sum, errors.New("killed"), prestage.HowReadback, "prestage"},
		"sha256sum":         {prestage.HowHost, "", sum, none, prestage.HowHost, "prestage sha256sum"},
		"sha256sum, damage": {prestage.HowHost, "", right, none, "", "prestage sha256sum"},
		"a sample is read":  {prestage.HowSample, right, sum, nil, prestage.HowSample, ""},
		"nothing is read":   {prestage.HowNone, right, sum, nil, prestage.HowNone, ""},
	} {
		h := &knowing{flawed: newFlawed(t, -1), digest: c.digest, sum: c.sum, err: c.err}
		done, err := prestage.Push(t.Context(), h, r, "win11", 1, prestage.PushOptions{How: c.how})
		if asked := strings.Join(h.asked, " "); asked != c.asked {
			t.Errorf("%s: it was asked for %q", name, asked)
		}
		switch {
		case c.receipt == "":
			if !errors.Is(err, prestage.ErrDamaged) {
				t.Errorf("%s: %v", name, err)
			}
		case err != nil || done.Receipt.How != c.receipt:
			t.Errorf("%s: %+v, %v", name, done, err)
		case c.receipt == prestage.HowHost && h.read.Load() > 0:
			t.Errorf("%s: %d bytes were read over the network all the same", name, h.read.Load())
		}
	}
}
