package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"prestage/internal/testenv"
)

// servedPackage packs an image of a MiB and more that does not compress, and
// returns the folder of packages and the CKM.
func servedPackage(t *testing.T) (folder string, data []byte) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("PRESTAGE_CONFIG", filepath.Join(dir, "prestage.toml"))
	image := filepath.Join(dir, "a.img")
	if err := os.WriteFile(image, testenv.Random(1, 5<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	folder = filepath.Join(dir, "repo")
	if out, err := exec.Command("prestage", "pack", image, "--name", "win11", "--images", folder).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	data, err := os.ReadFile(filepath.Join(folder, "win11_1.ckm"))
	if err != nil {
		t.Fatal(err)
	}
	return folder, data
}

// serving starts "serve" by a command line and returns the URL of the packages
// and what stops it. It must end with exit code 0.
func serving(t *testing.T, args ...string) (url string, stop func()) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	said, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) // those that it started, too
		if err := cmd.Wait(); err != nil {
			b, _ := os.ReadFile(log)
			t.Errorf("%v: %v\n%s", args, err, b)
		}
	}
	t.Cleanup(stop)
	until(t, "the server listens", func() bool {
		b, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if m := servedAt.FindSubmatch(b); m != nil {
			url = string(m[1])
		}
		return url != ""
	})
	return url, stop
}

// curl fetches with curl and returns what it got.
func curl(t *testing.T, args ...string) []byte {
	t.Helper()
	testenv.Need(t, "curl")
	var out, said bytes.Buffer
	cmd := exec.Command("curl", append([]string{"--silent", "--show-error", "--fail", "--max-time", "60"}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		t.Fatalf("curl %v: %v\n%s", args, err, &said)
	}
	return out.Bytes()
}

// The bytes of a CKM go from the file to the network in the system: the program
// does not read them.
func TestServeZeroCopy(t *testing.T) {
	testenv.Need(t, "strace", "curl")
	folder, data := servedPackage(t)
	trace := filepath.Join(t.TempDir(), "trace")
	url, stop := serving(t, "strace", "-f", "-o", trace, "-e", "trace=sendfile,read,pread64",
		"prestage", "serve", "--listen", "127.0.0.1:0", "--images", folder)
	if got := curl(t, url+"win11_1.ckm"); !bytes.Equal(got, data) {
		t.Fatal("curl got other bytes")
	}
	if got := curl(t, "--range", "100-2000099", url+"win11_1.ckm"); !bytes.Equal(got, data[100:2000100]) {
		t.Fatal("curl got another range")
	}
	stop()
	b, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	sum := func(call string) (n int) {
		for _, m := range regexp.MustCompile(`(?m)^\d+ +(?:`+call+`\(|<\.\.\. `+call+` resumed).* = (\d+)$`).FindAllSubmatch(b, -1) {
			k, _ := strconv.Atoi(string(m[1]))
			n += k
		}
		return n
	}
	sent, read := sum("sendfile"), sum("read")+sum("pread64")
	t.Logf("sendfile: %d bytes, read: %d bytes, of %d", sent, read, len(data)+2000000)
	if want := len(data) + 2000000; sent != want {
		t.Errorf("sendfile sent %d bytes, want %d", sent, want)
	}
	if read > 100_000 {
		t.Errorf("the program has read %d bytes", read)
	}
}

// curl, as people use it.
func TestServeCurl(t *testing.T) {
	folder, data := servedPackage(t)
	url, _ := serving(t, "prestage", "serve", "--listen", "127.0.0.1:0", "--images", folder)
	file := url + "win11_1.ckm"
	if got := curl(t, "--http1.0", file); !bytes.Equal(got, data) {
		t.Error("HTTP/1.0: other bytes")
	}
	if got := curl(t, "--http1.0", "--range", "5-9", file); !bytes.Equal(got, data[5:10]) {
		t.Error("HTTP/1.0: another range")
	}
	head := string(curl(t, "--head", file))
	for _, want := range []string{"HTTP/1.1 200 OK", "Content-Length: " + strconv.Itoa(len(data)), "Accept-Ranges: bytes", `Etag: "`, "Content-Type: application/octet-stream"} {
		if !strings.Contains(head, want) {
			t.Errorf("no %q in\n%s", want, head)
		}
	}
	if got := curl(t, "--range", "0-1,10-11", file); !bytes.Contains(got, []byte("Content-Range: bytes 10-11/"+strconv.Itoa(len(data)))) {
		t.Errorf("two ranges:\n%.500q", got)
	}
	// A download that was cut goes on.
	part := filepath.Join(t.TempDir(), "part")
	if err := os.WriteFile(part, data[:1_000_000], 0o644); err != nil {
		t.Fatal(err)
	}
	curl(t, "--continue-at", "-", "--output", part, file)
	if got, _ := os.ReadFile(part); !bytes.Equal(got, data) {
		t.Error("continued: other bytes")
	}
	// What was fetched once is not fetched again.
	tags := filepath.Join(t.TempDir(), "tags")
	curl(t, "--etag-save", tags, "--output", part, url+"catalog.json")
	if got := curl(t, "--etag-compare", tags, "--write-out", "%{http_code}", url+"catalog.json"); string(got) != "304" {
		t.Errorf("asked again: %s", got)
	}
}

// A server that is started anew while a client downloads costs the client
// nothing but time.
func TestServeRestart(t *testing.T) {
	testenv.NeedTime(t)
	folder, _ := servedPackage(t)
	url, stop := serving(t, "prestage", "serve", "--listen", "127.0.0.1:0", "--images", folder)
	addr := strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/MEDVImages/")
	dir := t.TempDir()
	get := exec.Command("prestage", "install", "win11", "--images", url, "--store", filepath.Join(dir, "store"), "--limit", "2MiB")
	var out bytes.Buffer
	get.Stdout, get.Stderr = &out, &out
	if err := get.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "a part of the image has come", func() bool {
		partial, _ := filepath.Glob(filepath.Join(dir, "store", "win11", ".1-*.partial", "a.img"))
		if len(partial) == 0 {
			return false
		}
		st, err := os.Stat(partial[0])
		return err == nil && st.Sys().(*syscall.Stat_t).Blocks*512 > 1<<20
	})
	stop()
	serving(t, "prestage", "serve", "--listen", addr, "--images", folder)
	if err := get.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
}
