package ledger

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"prestage/internal/testenv"
)

// diary keeps what a keeper says.
type diary struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (d *diary) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.b.Write(p)
}

func (d *diary) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.b.String()
}

func eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func kept(t *testing.T, where string, oldest time.Duration) (*Keeper, *diary) {
	t.Helper()
	return keptWithin(t, where, Bounds{Oldest: oldest})
}

func keptWithin(t *testing.T, where string, b Bounds) (*Keeper, *diary) {
	t.Helper()
	d := &diary{}
	k, err := keep(where, b, slog.New(slog.NewTextHandler(d, nil)),
		waits{again: 10 * time.Millisecond, againMost: 50 * time.Millisecond, prune: 50 * time.Millisecond, repeat: time.Hour, first: time.Minute})
	must(t, err)
	t.Cleanup(func() { k.Close() })
	return k, d
}

func (k *Keeper) takes(t *testing.T, after int) bool {
	_, err := k.Take(t.Context(), "", time.Now(), report("a", after, 1))
	return err == nil
}

// A damaged file is named, with what to do; when that has been done, it goes on.
func TestKeeperOfADamagedFile(t *testing.T) {
	where := filepath.Join(t.TempDir(), "x.db")
	must(t, os.WriteFile(where, testenv.Random(1, 100_000), 0o600))
	k, d := kept(t, where, 0)
	if _, err := k.Take(t.Context(), "", noon, report("a", 0, 1)); !errors.Is(err, ErrDamaged) {
		t.Errorf("damaged: %v", err)
	}
	if s := d.String(); !strings.Contains(s, "is damaged") || !strings.Contains(s, "move the file away") || !strings.Contains(s, filepath.Base(where)) || strings.Count(s, "ERROR") != 1 {
		t.Errorf("it says:\n%s", s)
	}
	must(t, os.Rename(where, where+".damaged"))
	eventually(t, "reports are taken", func() bool { return k.takes(t, 0) })
	if !strings.Contains(d.String(), "taken again") {
		t.Errorf("it says:\n%s", d)
	}
	must(t, k.Close())
	if _, err := k.Take(t.Context(), "", noon, report("a", 0, 1)); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// Damage that shows later ends the acknowledgements until it is mended.
func TestKeeperOfAFileThatGetsDamaged(t *testing.T) {
	where := filepath.Join(t.TempDir(), "x.db")
	l := opened(t, where)
	for i := range 20 {
		taken(t, l, "", noon, report("a", i*1000, 1000))
	}
	must(t, l.Close())
	saved, err := os.ReadFile(where)
	must(t, err)
	hurt := bytes.Clone(saved)
	for i := 2 * 4096; i < len(hurt); i += 4096 { // all pages but the first ones
		copy(hurt[i:], testenv.Random(byte(i>>12), 2000))
	}
	must(t, os.WriteFile(where, hurt, 0o600))
	k, d := kept(t, where, 0)
	eventually(t, "damage shows", func() bool {
		_, err := k.Take(t.Context(), "", noon, report("a", 50_000, 500))
		return errors.Is(err, ErrDamaged)
	})
	for i := range 20 { // and it stays so
		if k.takes(t, 60_000+i) {
			t.Fatal("a damaged file takes reports")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if s := d.String(); strings.Count(s, "ERROR") != 1 || !strings.Contains(s, "move the file away") {
		t.Errorf("it says:\n%s", s)
	}
	for _, beside := range []string{"-wal", "-shm"} {
		os.Remove(where + beside)
	}
	must(t, os.WriteFile(where+".new", saved, 0o600))
	must(t, os.Rename(where+".new", where))
	eventually(t, "reports are taken", func() bool { return k.takes(t, 50_000) })
}

// A file that is moved away under the server gets no more events.
func TestKeeperOfAFileThatIsMoved(t *testing.T) {
	where := filepath.Join(t.TempDir(), "x.db")
	k, d := kept(t, where, 0)
	if !k.takes(t, 0) {
		t.Fatal(d)
	}
	must(t, os.Rename(where, where+".old"))
	must(t, os.Rename(where+"-wal", where+".old-wal"))
	if k.takes(t, 1) {
		t.Error("it takes a report into a file that is not there")
	}
	eventually(t, "reports are taken", func() bool { return k.takes(t, 1) })
	if n := len(entries(t, opened(t, where), Filter{})); n != 1 {
		t.Errorf("%d events", n)
	}
}

func TestKeeperForgets(t *testing.T) {
	onBoth(t, func(t *testing.T, where string) {
		k, d := kept(t, where, 24*time.Hour)
		_, err := k.Take(t.Context(), "", time.Now().Add(-25*time.Hour), report("a", 0, 3))
		must(t, err)
		_, err = k.Take(t.Context(), "", time.Now(), report("a", 3, 3))
		must(t, err)
		l := opened(t, where)
		eventually(t, "old events are forgotten", func() bool { return len(entries(t, l, Filter{})) == 3 })
		eventually(t, "it says so", func() bool { return strings.Contains(d.String(), "3 events older than 1 days were forgotten") })
	})
}

// Whoever may tell something could tell very much: the packages' disk is not filled.
func TestKeeperHasABound(t *testing.T) {
	where := filepath.Join(t.TempDir(), "x.db")
	const most = 1 << 20
	k, d := keptWithin(t, where, Bounds{Most: most})
	var err error
	for i := 0; err == nil; i++ {
		if i > most/100 {
			t.Fatal("there is no bound")
		}
		_, err = k.Take(t.Context(), "", time.Now(), report("a", 100*i, 100))
	}
	if !errors.Is(err, ErrFull) || !strings.Contains(d.String(), "--events-most") {
		t.Errorf("%v; it says:\n%s", err, d)
	}
	if st, err := os.Stat(where); err != nil || st.Size() > most {
		t.Errorf("%v, %v", st.Size(), err)
	}
	must(t, k.Close())
	k, _ = keptWithin(t, where, Bounds{Most: 2 * most})
	if _, err := k.Take(t.Context(), "", time.Now(), report("b", 0, 1)); err != nil {
		t.Errorf("with another bound: %v", err)
	}
}

// A server of databases that ends, starts again, or is not there at first.
func TestKeeperOfAServer(t *testing.T) {
	s := server.Get(t)
	where := s.Database(t)
	k, d := kept(t, where, 0)
	if !k.takes(t, 0) {
		t.Fatal(d)
	}
	s.Down()
	up := sync.OnceFunc(func() { s.Up(t) })
	defer up()
	if k.takes(t, 1) {
		t.Error("acknowledged by nobody")
	}
	late, said := kept(t, where, 0)
	if late.takes(t, 1) || !strings.Contains(said.String(), "no events of machines are taken") {
		t.Errorf("it says:\n%s", said)
	}
	up()
	eventually(t, "reports are taken", func() bool { return k.takes(t, 1) })
	eventually(t, "reports are taken by the other", func() bool { return late.takes(t, 2) })
	for _, d := range []*diary{d, said} {
		if strings.Contains(d.String(), "s3cret") {
			t.Errorf("the password is in\n%s", d)
		}
	}
	if n := len(entries(t, opened(t, where), Filter{})); n != 3 {
		t.Errorf("%d events", n)
	}
}
