package client_test

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"prestage/ckm"
	"prestage/internal/client"
	"prestage/internal/disk"
	"prestage/internal/pack"
	"prestage/internal/progress"
	"prestage/internal/repo"
	"prestage/internal/testenv"
)

// benchImage returns the image that PRESTAGE_BENCH_IMAGE names, or a small one.
func benchImage(b *testing.B) string {
	if path := os.Getenv("PRESTAGE_BENCH_IMAGE"); path != "" {
		return path
	}
	path := filepath.Join(b.TempDir(), "disk.img")
	if err := os.WriteFile(path, testenv.Text(1, 64<<20), 0o644); err != nil {
		b.Fatal(err)
	}
	return path
}

func packInto(b *testing.B, image, dir string) {
	files, err := disk.Open(image)
	if err != nil {
		b.Fatal(err)
	}
	defer files[0].Close()
	b.SetBytes(files[0].Size)
	_, _, err = repo.NewFolder(dir).Add(b.Context(), "bench", func(w io.Writer) (*ckm.Index, error) {
		return pack.Write(b.Context(), w, files, pack.Options{Meter: progress.Discard})
	})
	if err != nil {
		b.Fatal(err)
	}
}

func BenchmarkPack(b *testing.B) {
	image := benchImage(b)
	for b.Loop() {
		packInto(b, image, b.TempDir())
	}
}

func BenchmarkInstall(b *testing.B) {
	staged := b.TempDir()
	packInto(b, benchImage(b), staged)
	b.ResetTimer()
	for b.Loop() {
		in := &client.Install{Name: "bench", Store: client.NewStore(b.TempDir()), Prestaged: repo.NewFolder(staged), Meter: progress.Discard}
		if _, err := in.Run(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
