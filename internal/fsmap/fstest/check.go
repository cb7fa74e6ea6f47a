//go:build linux

package fstest

import (
	"bytes"
	"fmt"
	"runtime/metrics"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"prestage/internal/fsmap/volume"
)

// Bounds of what reading a volume takes.
const (
	mostTime   = 30 * time.Second // of the processors: what takes it has no end
	mostMemory = 64 << 20         // bytes that are allocated besides
)

// Limits fails the test if do takes more time or memory than what has size bytes
// may take.
func Limits(t *testing.T, size int64, do func()) {
	memory, begun := allocated(), processor(t)
	do()
	if n := allocated() - memory; n > mostMemory+16*uint64(size) {
		t.Fatalf("%d bytes were allocated for %d", n, size)
	}
	if d := processor(t) - begun; d > mostTime {
		t.Fatalf("%d bytes took %v", size, d)
	}
}

func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// processor returns the time that processors spent: a program that is stopped or
// has to wait is not slow.
func processor(t *testing.T) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// counter is a volume that tells how much of it was read.
type counter struct {
	*bytes.Reader
	bytes int64
}

func (c *counter) ReadAt(p []byte, off int64) (int, error) {
	c.bytes += int64(len(p))
	return c.Reader.ReadAt(p, off)
}

// Check reads a volume of arbitrary bytes. Whatever it says: all extents lie
// inside; those of a file are joined; what is free ascends, and no file has any of
// it; and there is an end to it, before more than a number of bytes was read.
func Check(t *testing.T, b []byte, most int64, open Open) {
	size := int64(len(b))
	r := &counter{Reader: bytes.NewReader(b)}
	Limits(t, size, func() {
		if v, err := open(r, size); err == nil {
			check(t, v, size)
		}
	})
	if r.bytes > most {
		t.Fatalf("%d bytes were read, and should be %d at most", r.bytes, most)
	}
}

func check(t *testing.T, v volume.FileSystem, size int64) {
	inside := func(e volume.Extent) {
		if e.Offset < 0 || e.Length <= 0 || e.Length > size || e.Offset > size-e.Length {
			t.Fatalf("%v lies outside", e)
		}
	}
	var free []volume.Extent
	last := int64(-1)
	freeErr := v.Free(t.Context(), func(e volume.Extent) error {
		inside(e)
		if e.Offset <= last {
			t.Fatalf("%v comes after %d", e, last)
		}
		last = e.End()
		free = append(free, e)
		return nil
	})
	contradiction := ""
	err := v.Files(t.Context(), func(f *volume.File) error {
		if len(f.Extents) == 0 || f.Size < 0 {
			t.Fatalf("file %d of %d bytes in %d extents", f.ID, f.Size, len(f.Extents))
		}
		_ = f.Kind.String()
		for i, e := range f.Extents {
			inside(e)
			if i > 0 && f.Extents[i-1].End() == e.Offset {
				t.Fatalf("file %d: %v is not joined", f.ID, e)
			}
			if touches(free, e) {
				contradiction = fmt.Sprintf("file %d has %v, which is free", f.ID, e)
			}
		}
		return nil
	})
	if n, ok := v.(volume.Namer); ok && err == nil {
		n.Names(t.Context(), func(id uint64, path string) error {
			if path == "" || !utf8.ValidString(path) || strings.ContainsRune(path, 0) {
				t.Fatalf("file %d is called %q", id, path)
			}
			return nil
		})
	}
	if err == nil && freeErr == nil && contradiction != "" {
		t.Fatal(contradiction)
	}
}

// touches reports whether one of the ascending list shares bytes with e.
func touches(list []volume.Extent, e volume.Extent) bool {
	i, _ := slices.BinarySearchFunc(list, e, func(x, e volume.Extent) int {
		if x.End() <= e.Offset {
			return -1
		}
		return 1
	})
	return i < len(list) && list[i].Offset < e.End()
}
