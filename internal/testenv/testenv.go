// Package testenv is what the tests need of the machine they run on. A test
// that lacks something is skipped by name, or fails where skipping is
// forbidden.
package testenv

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// NoSkip is the environment variable that turns skips into failures.
const NoSkip = "PRESTAGE_TEST_NOSKIP"

// Need skips the test when one of the programs is missing. "make test" installs
// the Debian packages that hold them where it may.
func Need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := Look(p); err != nil {
			skip(t, fmt.Sprintf("the program %s is not installed", p))
		}
	}
}

// Look finds a program, also where an ordinary user's PATH does not lead.
func Look(program string) (string, error) {
	if p, err := exec.LookPath(program); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if p, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return p, nil
		}
	}
	return "", exec.ErrNotFound
}

// NeedRoot skips the test when it does not run as root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "it needs root")
	}
}

// NeedLinux skips the test on other systems.
func NeedLinux(t testing.TB) {
	t.Helper()
	if runtime.GOOS != "linux" {
		skip(t, "it needs Linux")
	}
}

// NeedTime skips the test when only the quick ones are asked for (go test
// -short).
func NeedTime(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("it is not a quick test")
	}
}

func skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv(NoSkip) == "1" {
		t.Fatalf("skipping is forbidden: %s", why)
	}
	t.Skip(why)
}

// Random returns n bytes that are always the same for a seed and do not compress.
func Random(seed byte, n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(p)
	return p
}

// Text returns n bytes that are always the same for a seed and compress about
// as well as programs do.
func Text(seed byte, n int) []byte {
	r := rand.New(rand.NewChaCha8([32]byte{seed}))
	words := make([][]byte, 400)
	for i := range words {
		words[i] = Random(byte(i), 3+r.IntN(9))
	}
	p := make([]byte, 0, n+16)
	for len(p) < n {
		p = append(p, words[r.IntN(len(words))]...)
	}
	return p[:n]
}

// Ext4 makes a sparse file of size bytes at path with an ext4 file system that
// holds what is in dir.
func Ext4(t testing.TB, path, dir string, size int64) {
	t.Helper()
	Need(t, "mkfs.ext4")
	mkfs, _ := Look("mkfs.ext4")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if out, err := exec.Command(mkfs, "-q", "-F", "-d", dir, path).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
}

// Tree fills dir with about size bytes in files of many sizes and some folders.
func Tree(t testing.TB, dir string, seed byte, size int) {
	t.Helper()
	r := rand.New(rand.NewChaCha8([32]byte{seed}))
	for i := 0; size > 0; i++ {
		n := min(size, 1<<(6+r.IntN(16))+r.IntN(4096))
		data := Text(seed+byte(i), n)
		if i%3 == 0 {
			data = Random(seed+byte(i), n)
		}
		sub := filepath.Join(dir, fmt.Sprintf("d%d", i%7))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("f%d", i)), data, 0o644); err != nil {
			t.Fatal(err)
		}
		size -= n
	}
}
