// Package ownfiles knows the chunks of files that a machine has anyway, such as
// those of its operating system: images of the same system can be built from
// them in part (MED-V: Trim Transfer).
package ownfiles

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"

	"prestage/ckm"
	"prestage/internal/disk"
	"prestage/internal/durable"
	"prestage/internal/pack"
	"prestage/internal/progress"
)

// Bounds of an index. It takes some 12 bytes of memory for each chunk and 150 for
// each file.
const (
	// leastSize is the size in bytes of the smallest files that count: smaller ones
	// are many and save little.
	leastSize  = 4 << 10
	mostFiles  = 500_000
	mostChunks = 2_000_000
)

// Index knows the chunks of files.
type Index struct {
	Files  []File
	chunks int
}

// File is what is known of a file.
type File struct {
	Path   string
	Size   int64 // bytes
	Time   int64 // when it was changed, Unix nanoseconds
	Chunks []Chunk
}

// Chunk is one of a file's chunks. They follow each other, but for zeros between.
type Chunk struct {
	Prefix uint64 // of its ID
	Offset int64  // in the file, bytes
	Length uint32 // bytes
}

// cacheVersion changes with the form of the cache, and with what makes chunks.
const cacheVersion = "prestage own files 1\n"

// Load reads an index that Save has written. One that is not there, or that is
// not whole, is empty.
func Load(path string) *Index {
	x := &Index{}
	b, err := os.ReadFile(path)
	if err != nil {
		return x
	}
	body, ok := bytes.CutPrefix(b, []byte(cacheVersion))
	if !ok || len(body) < len(ckm.Digest{}) {
		return x
	}
	sum, body := ckm.Digest(body[:32]), body[32:]
	if ckm.Sum(body) != sum || gob.NewDecoder(bytes.NewReader(body)).Decode(x) != nil {
		return &Index{}
	}
	for _, f := range x.Files {
		x.chunks += len(f.Chunks)
	}
	return x
}

// Save writes the index.
func (x *Index) Save(path string) error {
	var body bytes.Buffer
	if err := gob.NewEncoder(&body).Encode(x); err != nil {
		return err
	}
	sum := ckm.Sum(body.Bytes())
	return durable.WriteFile(path, slices.Concat([]byte(cacheVersion), sum[:], body.Bytes()), 0o600)
}

// found is a file of a folder.
type found struct {
	path       string
	size, time int64
}

// walk calls yield with the files in folders, without those of other file systems
// and what links lead to. What cannot be read is passed over.
func walk(ctx context.Context, folders []string, yield func(found) error) error {
	for _, folder := range folders {
		folder, err := filepath.Abs(folder)
		if err != nil {
			return err
		}
		device, _ := deviceOf(folder)
		err = filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				return nil //nolint:nilerr // others can be read
			}
			if d.IsDir() {
				if other, ok := deviceOf(path); ok && other != device {
					return fs.SkipDir
				}
				return nil
			}
			if !d.Type().IsRegular() {
				return nil
			}
			st, err := d.Info()
			if err != nil || st.Size() < leastSize {
				return nil //nolint:nilerr // it is gone
			}
			return yield(found{path, st.Size(), st.ModTime().UnixNano()})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

var errFull = errors.New("as many as are kept")

// Refresh brings the index up to date: files that look as they did keep their
// chunks, others are read.
func (x *Index) Refresh(ctx context.Context, folders []string, m progress.Meter) error {
	before := make(map[string]*File, len(x.Files))
	for i := range x.Files {
		before[x.Files[i].Path] = &x.Files[i]
	}
	var now Index
	var total int64
	var list []found
	seen := make(map[string]bool)
	err := walk(ctx, folders, func(f found) error {
		if len(list) == mostFiles {
			return errFull
		}
		if !seen[f.path] {
			seen[f.path] = true
			list = append(list, f)
			total += f.size
		}
		return nil
	})
	if err != nil && !errors.Is(err, errFull) {
		return err
	}
	m.Begin("looking at this machine's own files", total)
	for _, f := range list {
		if now.chunks >= mostChunks {
			break
		}
		file := File{Path: f.path, Size: f.size, Time: f.time}
		if old := before[f.path]; old != nil && old.Size == f.size && old.Time == f.time {
			file.Chunks = old.Chunks
		} else if file.Chunks, err = cut(ctx, f.path, f.size); ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil {
			m.Add(f.size)
			continue // it changes, or is somebody's secret
		}
		now.chunks += len(file.Chunks)
		now.Files = append(now.Files, file)
		m.Add(f.size)
	}
	*x = now
	return nil
}

// cut returns the chunks of a file that must have a size.
func cut(ctx context.Context, path string, size int64) (list []Chunk, err error) {
	files, err := disk.Open(path)
	if err != nil {
		return nil, err
	}
	defer files[0].Close()
	if files[0].Size != size {
		return nil, fmt.Errorf("%q was changed", path)
	}
	err = pack.Cut(ctx, files[0], func(off int64, p []byte) error {
		list = append(list, Chunk{ckm.Sum(p).Prefix(), off, uint32(len(p))})
		return nil
	})
	if err == nil {
		err = files[0].CheckUnchanged()
	}
	return list, err
}

// Estimates look at so much.
const (
	sampleFiles = 400
	sampleBytes = 256 << 20
)

// Estimate says how many bytes of what wanted asks for the folders hold, about, by
// looking at files chosen at random.
func Estimate(ctx context.Context, folders []string, wanted func(prefix uint64) bool) (int64, error) {
	var (
		sample []found
		total  int64
		n      int
	)
	err := walk(ctx, folders, func(f found) error {
		total += f.size
		n++
		if len(sample) < sampleFiles {
			sample = append(sample, f)
		} else if i := rand.IntN(n); i < sampleFiles {
			sample[i] = f
		}
		if n == mostFiles {
			return errFull
		}
		return nil
	})
	if err != nil && !errors.Is(err, errFull) {
		return 0, err
	}
	var looked, held int64
	for _, f := range sample {
		if looked >= sampleBytes {
			break
		}
		chunks, err := cut(ctx, f.path, f.size)
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if err != nil {
			continue
		}
		for _, c := range chunks {
			if looked += int64(c.Length); wanted(c.Prefix) {
				held += int64(c.Length)
			}
		}
	}
	if looked == 0 {
		return 0, nil
	}
	return int64(float64(held) / float64(looked) * float64(total)), nil
}

// readers is how many files are read at once.
const readers = 2

// open opens a file if it is what the index says.
func (f *File) open() (*os.File, error) {
	r, err := durable.OpenShared(f.Path)
	if err != nil {
		return nil, err
	}
	st, err := r.Stat()
	if err == nil && (!st.Mode().IsRegular() || st.Size() != f.Size || st.ModTime().UnixNano() != f.Time) {
		err = fmt.Errorf("%q was changed", f.Path)
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}
