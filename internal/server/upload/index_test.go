package upload

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"prestage/ckm"
	"prestage/internal/repo"
	"prestage/internal/testenv"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sent is a package that is sent to a store, in a piece for each part.
type sent struct {
	ID
	index, data []byte
}

// packed packs an image of a frame.
func packed(t *testing.T, name string) sent {
	t.Helper()
	folder := repo.NewFolder(t.TempDir())
	x, _, err := folder.Add(t.Context(), name, func(to io.Writer) (*ckm.Index, error) {
		raw := testenv.Random(byte(len(name)), 100<<10)
		copy(raw, name)
		x := &ckm.Index{Info: ckm.Info{FrameLimit: 256 << 10, Created: 1_780_000_000, Files: []ckm.File{{Path: "disk.img", Size: 100 << 10, Format: "raw"}}}}
		w, err := ckm.NewWriter(to, x)
		if err != nil {
			return nil, err
		}
		x.Place(0, 0, 0)
		if err := w.WriteFrame(ckm.NewCompressor(ckm.LevelFast).Append(nil, raw), ckm.CodecZstd, []ckm.ID{ckm.Sum(raw)}, []int{len(raw)}); err != nil {
			return nil, err
		}
		return x, w.Finish()
	})
	must(t, err)
	s := sent{ID: ID{Owner: "user:alice", Name: name, Version: x.Version, Digest: x.Digest()}}
	s.index, err = os.ReadFile(folder.Path(ckm.IndexName(name, x.Version)))
	must(t, err)
	s.data, err = os.ReadFile(folder.Path(ckm.DataName(name, x.Version)))
	must(t, err)
	return s
}

func piece(part string, b []byte, offset int) Piece {
	return Piece{Part: part, Offset: int64(offset), Bytes: int64(len(b) - offset), Length: int64(len(b)), Complete: true,
		Body: bytes.NewReader(b[offset:]), Interrupt: func() {}}
}

func newStore(t *testing.T) *Store {
	t.Helper()
	s := New(Config{Folder: repo.NewFolder(t.TempDir()), Log: slog.New(slog.DiscardHandler), Age: time.Hour, Keep: -1})
	t.Cleanup(s.Close)
	return s
}

// However many uploads are finished at once, few INDEXes are decoded at a time.
func TestFewAreDecodedAtOnce(t *testing.T) {
	s := newStore(t)
	var now, most, all atomic.Int32
	s.decode = func(b []byte) (*ckm.Index, error) {
		n := now.Add(1)
		defer now.Add(-1)
		all.Add(1)
		for seen := most.Load(); n > seen && !most.CompareAndSwap(seen, n); seen = most.Load() {
		}
		time.Sleep(20 * time.Millisecond)
		return ckm.Decode(b)
	}
	const uploads = 16
	var each []sent
	for i := range uploads {
		each = append(each, packed(t, fmt.Sprint("image", i)))
	}
	var wait sync.WaitGroup
	for _, u := range each {
		wait.Go(func() {
			if at, err := s.Append(t.Context(), u.ID, piece(repo.UploadIndex, u.index, 0)); err != nil || !at.Complete {
				t.Errorf("%s: the INDEX: %+v, %v", u.Name, at, err)
			}
			if at, err := s.Append(t.Context(), u.ID, piece(repo.UploadData, u.data, 0)); err != nil || !at.Complete {
				t.Errorf("%s: the CKM: %+v, %v", u.Name, at, err)
			}
			if done, err := s.Publish(t.Context(), u.ID, time.Minute); err != nil || !done {
				t.Errorf("%s: %v, %v", u.Name, done, err)
			}
		})
	}
	wait.Wait()
	if most.Load() > decoders || all.Load() < 3*uploads { // when it has come, for the plan, for the check
		t.Errorf("%d at once of %d", most.Load(), all.Load())
	}
	if len(s.decoding) != 0 {
		t.Errorf("%d are still decoding", len(s.decoding))
	}
}

// Who waits for others no longer than its request lasts goes on later, and sends
// nothing twice.
func TestDecodingIsAwaited(t *testing.T) {
	s, u := newStore(t), packed(t, "win11")
	full := func(do func(ctx context.Context) error) {
		t.Helper()
		for range decoders {
			s.decoding <- struct{}{}
		}
		// Long enough for what comes before the wait, on a slow disk too.
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if err := do(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it did not wait: %v", err)
		}
		for range decoders {
			<-s.decoding
		}
	}
	full(func(ctx context.Context) error {
		at, err := s.Append(ctx, u.ID, piece(repo.UploadIndex, u.index, 0))
		if at.Offset != int64(len(u.index)) || at.Complete {
			t.Errorf("%+v", at)
		}
		return err
	})
	at, err := s.Append(t.Context(), u.ID, piece(repo.UploadIndex, u.index, len(u.index)))
	if err != nil || !at.Complete {
		t.Errorf("%+v, %v", at, err)
	}
	full(func(ctx context.Context) error {
		_, err := s.Append(ctx, u.ID, piece(repo.UploadData, u.data, 0))
		return err
	})
	full(func(ctx context.Context) error {
		_, err := s.Append(ctx, u.ID, piece(repo.UploadPatch, []byte("patch"), 0))
		return err
	})
	at, err = s.Append(t.Context(), u.ID, piece(repo.UploadData, u.data, 0))
	if err != nil || !at.Complete {
		t.Errorf("%+v, %v", at, err)
	}
	for range decoders { // what is checked goes on when the server has others done
		s.decoding <- struct{}{}
	}
	if done, err := s.Publish(t.Context(), u.ID, 50*time.Millisecond); done || err != nil {
		t.Errorf("%v, %v", done, err)
	}
	for range decoders {
		<-s.decoding
	}
	if done, err := s.Publish(t.Context(), u.ID, time.Minute); !done || err != nil {
		t.Errorf("%v, %v", done, err)
	}
}
