// Command dist builds the release files of prestage: for each platform the
// binary by itself and an archive of it with its licences; Client.MSI for
// windows/amd64 (x64) and windows/386 (x86); .deb and .rpm packages for Linux;
// and SHA256SUMS over all of them. Run it from the repository's root:
//
//	go run ./scripts/dist -version 1.2.0 -out dist linux/amd64 windows/amd64
//
// Windows programs and MSIs are signed if PRESTAGE_SIGN says how, as in
// 'osslsigncode sign … -in {in} -out {out}'. A signature has a time, so that
// only what is not signed comes out the same each time.
//
// The same sources, version and Go give the same bytes, whoever builds them and
// wherever. Files in archives carry the time in SOURCE_DATE_EPOCH (seconds since
// 1970), by default that of the last commit.
package main

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// documents go into every archive, beside the binary.
var documents = []string{"LICENSE", "THIRD_PARTY_NOTICES.md"}

func main() {
	log.SetFlags(0)
	log.SetPrefix("dist: ")
	version := flag.String("version", "devel", "the version, also part of the files' names")
	out := flag.String("out", "dist", "the folder to write to, new or empty")
	flag.Parse()
	if err := run(*version, *out, flag.Args()); err != nil {
		log.Fatal(err)
	}
}

func run(version, out string, platforms []string) error {
	if len(platforms) == 0 {
		return errors.New("name at least one platform, such as linux/amd64")
	}
	// The version reaches file names and linker flags.
	if !regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.+_-]*$`).MatchString(version) {
		return fmt.Errorf("version %q has characters that do not belong in a file name", version)
	}
	modified, err := sourceTime()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	// SHA256SUMS covers the whole folder, so nothing else may be in it.
	if entries, err := os.ReadDir(out); err != nil {
		return err
	} else if len(entries) > 0 {
		return fmt.Errorf("folder %s is not empty: remove it first", out)
	}
	scripts, err := completions()
	if err != nil {
		return err
	}
	defer os.RemoveAll(scripts)
	b := builder{version, out, scripts, modified}
	for _, platform := range platforms {
		goos, goarch, ok := strings.Cut(platform, "/")
		if !ok {
			return fmt.Errorf("platform %q is not of the form os/arch", platform)
		}
		if err := b.release(goos, goarch); err != nil {
			return fmt.Errorf("%s: %w", platform, err)
		}
	}
	return writeSums(out)
}

// sourceTime returns the time to give to every file in an archive.
func sourceTime() (time.Time, error) {
	epoch := os.Getenv("SOURCE_DATE_EPOCH")
	if epoch == "" {
		commit, err := exec.Command("git", "log", "-1", "--format=%ct").Output()
		if err != nil {
			return time.Time{}, errors.New("no git commit to take the time from: set SOURCE_DATE_EPOCH")
		}
		epoch = strings.TrimSpace(string(commit))
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// builder builds for one platform after another.
type builder struct {
	version, out string
	completions  string // the folder of completion scripts, named after their shells
	modified     time.Time
}

// release builds the binary for one platform, its archive and its installers.
func (b builder) release(goos, goarch string) error {
	name := fmt.Sprintf("prestage_%s_%s_%s", b.version, goos, goarch)
	exe := ""
	if goos == "windows" {
		exe = ".exe"
	}
	binary := filepath.Join(b.out, name+exe)
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -buildid= -X main.version="+b.version, "-o", binary, "./cmd/prestage")
	// Spell out what the builder's own settings would otherwise decide.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+goarch,
		"GOFLAGS=", "GOEXPERIMENT=", "GOAMD64=v1", "GOARM64=v8.0", "GO386=sse2")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("building: %w", err)
	}
	if goos == "windows" {
		if err := finishWindows(binary, b.version); err != nil {
			return err
		}
	}

	files := []file{{name: name + "/prestage" + exe, source: binary, mode: 0o755}}
	for _, d := range documents {
		files = append(files, file{name: name + "/" + d, source: d, mode: 0o644})
	}
	write, suffix := writeTarGz, ".tar.gz"
	if goos == "windows" {
		write, suffix = writeZip, ".zip"
	}
	f, err := os.Create(filepath.Join(b.out, name+suffix))
	if err != nil {
		return err
	}
	if err := write(f, files, b.modified); err != nil {
		f.Close()
		return fmt.Errorf("writing %s: %w", f.Name(), err)
	}
	if err := f.Close(); err != nil {
		return err
	}
	switch {
	case goos == "linux":
		return b.linux(binary, goarch, filepath.Join(b.out, name))
	case goos == "windows" && msiArch[goarch] != "":
		return b.msi(binary, msiArch[goarch])
	}
	return nil
}

// A file is one entry of an archive.
type file struct {
	name   string // in the archive
	source string // on disk
	mode   os.FileMode
}

// copyTo writes the file's bytes to w.
func (f file) copyTo(w io.Writer) error {
	r, err := os.Open(f.source)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(w, r)
	return err
}

// writeTarGz writes files in the given order, as owned by root, all of the same time.
func writeTarGz(w io.Writer, files []file, modified time.Time) error {
	zw, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	tw := tar.NewWriter(zw)
	for _, f := range files {
		info, err := os.Stat(f.source)
		if err != nil {
			return err
		}
		header := &tar.Header{
			Typeflag: tar.TypeReg,
			Name:     f.name,
			Size:     info.Size(),
			Mode:     int64(f.mode),
			ModTime:  modified,
			Format:   tar.FormatPAX,
		}
		if err := tw.WriteHeader(header); err != nil {
			return err
		}
		if err := f.copyTo(tw); err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return err
	}
	return zw.Close()
}

// writeZip writes files in the given order, all of the same time.
func writeZip(w io.Writer, files []file, modified time.Time) error {
	zw := zip.NewWriter(w)
	for _, f := range files {
		header := &zip.FileHeader{Name: f.name, Method: zip.Deflate, Modified: modified}
		header.SetMode(f.mode)
		entry, err := zw.CreateHeader(header)
		if err != nil {
			return err
		}
		if err := f.copyTo(entry); err != nil {
			return err
		}
	}
	return zw.Close()
}

// writeSums writes SHA256SUMS over the files in folder and those below it, as
// sha256sum -c reads it.
func writeSums(folder string) error {
	var sums strings.Builder
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error { // in order of their names
		if err != nil || d.IsDir() {
			return err
		}
		h := sha256.New()
		if err := (file{source: path}).copyTo(h); err != nil {
			return err
		}
		name, err := filepath.Rel(folder, path)
		fmt.Fprintf(&sums, "%x  %s\n", h.Sum(nil), filepath.ToSlash(name))
		return err
	})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "SHA256SUMS"), []byte(sums.String()), 0o644)
}
