package repo

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"prestage/ckm"
	"prestage/internal/durable"
)

// made is a package that was packed elsewhere, as Publish takes it: its files lie
// below the folder to.
func made(t *testing.T, to *Folder, name string, version uint32, seed byte) Published {
	t.Helper()
	from := NewFolder(t.TempDir())
	for v := uint32(1); v <= version; v++ {
		if _, _, err := from.Add(t.Context(), name, func(w io.Writer) (*ckm.Index, error) { return writeTiny(w, seed) }); err != nil {
			t.Fatal(err)
		}
	}
	p := Published{Data: filepath.Join(to.String(), ".aside")}
	var err error
	if p.Encoded, err = from.Index(t.Context(), name, version); err == nil {
		p.Index, err = ckm.Decode(p.Encoded)
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(from.Path(ckm.DataName(name, version)))
	if err == nil {
		err = os.WriteFile(p.Data, b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func writeTiny(w io.Writer, seed byte) (*ckm.Index, error) {
	raw := bytes.Repeat([]byte{seed}, 1000)
	x := &ckm.Index{Info: ckm.Info{FrameLimit: 4096, Files: []ckm.File{{Path: "a.img", Size: 1000, Format: "raw"}}}}
	cw, err := ckm.NewWriter(w, x)
	if err != nil {
		return nil, err
	}
	x.Place(0, 0, 0)
	if err := cw.WriteFrame(ckm.NewCompressor(ckm.LevelFast).Append(nil, raw), ckm.CodecZstd, []ckm.ID{ckm.Sum(raw)}, []int{1000}); err != nil {
		return nil, err
	}
	return x, cw.Finish()
}

func TestPublish(t *testing.T) {
	r := NewFolder(t.TempDir())
	publish := func(p Published) (bool, error) { t.Helper(); return r.Publish(t.Context(), p) }
	if added, err := publish(made(t, r, "vm", 3, 1)); err != nil || !added {
		t.Fatal(added, err)
	}
	if added, err := publish(made(t, r, "vm", 3, 1)); err != nil || added {
		t.Errorf("again: %v, %v", added, err)
	}
	for name, p := range map[string]Published{
		"another one": made(t, r, "vm", 3, 2), "an older one": made(t, r, "vm", 2, 1), "another case": made(t, r, "VM", 4, 1),
	} {
		if added, err := publish(p); !errors.Is(err, ErrConflict) || added {
			t.Errorf("%s: %v, %v", name, added, err)
		}
	}
	if err := r.Remove(t.Context(), "vm", 3); err != nil {
		t.Fatal(err)
	}
	if _, err := publish(made(t, r, "vm", 3, 1)); !errors.Is(err, ErrConflict) {
		t.Errorf("what was removed: %v", err)
	}
	// Who packs there goes on counting.
	p := made(t, r, "vm", 7, 1)
	if _, err := publish(p); err != nil {
		t.Fatal(err)
	}
	x, _, err := r.Add(t.Context(), "vm", func(w io.Writer) (*ckm.Index, error) { return writeTiny(w, 5) })
	if err != nil || x.Version != 8 {
		t.Errorf("%+v, %v", x, err)
	}
	// A CKM that is damaged, or that somebody copies there, is not written over.
	if err := os.Truncate(r.Path("vm_8.ckm"), 10); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.Path("vm_9.ckm"), []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, p := range []Published{made(t, r, "vm", 8, 5), made(t, r, "vm", 9, 5)} {
		if _, err := publish(p); !errors.Is(err, ErrConflict) {
			t.Errorf("version %d: %v", p.Index.Version, err)
		}
	}
}

// What a crash leaves between the two renamings is finished.
func TestPublishAfterCrash(t *testing.T) {
	for _, index := range []bool{true, false} { // is there, aside
		r := NewFolder(t.TempDir())
		p := made(t, r, "vm", 2, 1)
		if err := durable.Replace(p.Data, r.Path("vm_2.ckm")); err != nil {
			t.Fatal(err)
		}
		if index {
			if _, err := r.writeIndex(p.Encoded); err != nil {
				t.Fatal(err)
			}
			if err := r.Recover(t.Context()); err != nil {
				t.Fatal(err)
			}
			if there, err := r.Vacant("vm", 2, p.Index.Digest()); err != nil || !there {
				t.Errorf("it was not finished: %v, %v", there, err)
			}
		}
		if added, err := r.Publish(t.Context(), made(t, r, "vm", 2, 1)); err != nil || added == index {
			t.Errorf("%v, %v", added, err)
		}
		if _, err := ReadIndex(t.Context(), r, "vm", 2); err != nil {
			t.Error(err)
		}
	}
}
