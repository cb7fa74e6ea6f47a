// Package reload keeps what files say, and reads them again when they have
// changed: a server runs longer than its certificates, users and rights stay as
// they are.
package reload

import (
	"bytes"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// Value is what some files say, as a T.
type Value[T any] struct {
	paths []string
	parse func(contents [][]byte) (T, error)
	log   *slog.Logger

	mu       sync.Mutex
	now      T
	contents [][]byte
	stamps   []fs.FileInfo
	read     time.Time
	problem  string // that was told
}

// New reads the files, which parse makes a T of. The error says which files.
func New[T any](log *slog.Logger, parse func(contents [][]byte) (T, error), paths ...string) (*Value[T], error) {
	v := &Value[T]{paths: paths, parse: parse, log: log}
	stamps, err := v.look()
	if err != nil {
		return nil, err
	}
	if err := v.load(stamps); err != nil {
		return nil, err
	}
	return v, nil
}

// settled is the age at which a file's time of change is told from the next one.
const settled = 2 * time.Second

// Get returns what the files say. When they have changed and cannot be read, or
// say nothing that makes sense, it is what they said before, and the log says so,
// once.
func (v *Value[T]) Get() T {
	v.mu.Lock()
	defer v.mu.Unlock()
	stamps, err := v.look()
	if err == nil {
		if v.same(stamps) {
			return v.now
		}
		err = v.load(stamps)
	}
	switch {
	case err == nil:
		v.problem = ""
	case err.Error() != v.problem:
		v.problem = err.Error()
		v.log.Error(fmt.Sprintf("%v; what was there before stays in force", err))
	}
	return v.now
}

func (v *Value[T]) look() ([]fs.FileInfo, error) {
	var stamps []fs.FileInfo
	for _, p := range v.paths {
		st, err := os.Stat(p)
		if err != nil {
			return nil, err
		}
		if !st.Mode().IsRegular() {
			return nil, fmt.Errorf("%q is not a file", p)
		}
		stamps = append(stamps, st)
	}
	return stamps, nil
}

// same reports whether the files seem to be those that were read.
func (v *Value[T]) same(stamps []fs.FileInfo) bool {
	for i, st := range stamps {
		was := v.stamps[i]
		if !os.SameFile(st, was) || st.Size() != was.Size() || !st.ModTime().Equal(was.ModTime()) || v.read.Sub(st.ModTime()).Abs() < settled {
			return false
		}
	}
	return true
}

// load reads the files. A failure is tried again only when they change.
func (v *Value[T]) load(stamps []fs.FileInfo) error {
	read := time.Now()
	var contents [][]byte
	for _, p := range v.paths {
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		contents = append(contents, b)
	}
	changed := len(v.contents) == 0
	for i := range v.contents {
		changed = changed || !bytes.Equal(contents[i], v.contents[i])
	}
	if changed {
		now, err := v.parse(contents)
		if err != nil {
			return fmt.Errorf("%s: %w", strings.Join(v.paths, ", "), err)
		}
		if v.contents != nil {
			v.log.Info(fmt.Sprintf("read again, for it has changed: %s", strings.Join(v.paths, ", ")))
		}
		v.now, v.contents = now, contents
	}
	v.stamps, v.read = stamps, read
	return nil
}
