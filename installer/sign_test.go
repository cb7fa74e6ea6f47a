//go:build linux

package installer

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"prestage/internal/testenv"
)

// certificate makes a certificate for signing programs, and its key.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	testenv.Need(t, "openssl", "osslsigncode")
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	output(t, "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=prestage test", "-days", "2",
		"-addext", "extendedKeyUsage=codeSigning", "-keyout", key, "-out", cert)
	return cert, key
}

// verifies reports whether a file's signature is right.
func verifies(cert, file string) bool {
	return exec.Command("osslsigncode", "verify", "-CAfile", cert, "-in", file).Run() == nil
}

// The program and the MSI are signed by the hook; one byte changed is noticed.
func TestSignatures(t *testing.T) {
	cert, key := certificate(t)
	hook := "osslsigncode sign -certs '" + cert + "' -key '" + key + "' -h sha256 -in {in} -out {out}"
	m := newMSI(t, "1.0.0", "x64")
	if verifies(cert, m.Program) {
		t.Fatal("a program that was not signed verifies")
	}
	msi := filepath.Join(t.TempDir(), "It's a Client.MSI")
	for _, step := range []func() error{
		func() error { return Sign(t.Context(), hook, m.Program) },
		func() error { return m.Build(t.Context(), msi) },
		func() error { return Sign(t.Context(), hook, msi) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	// The program in the MSI is the signed one.
	inside := t.TempDir()
	output(t, "msiextract", "-C", inside, msi)
	found, err := filepath.Glob(filepath.Join(inside, "Prestage", "prestage.exe"))
	if err != nil || len(found) != 1 {
		t.Fatalf("found %v, %v in %s", found, err, output(t, "find", inside))
	}
	for _, file := range []string{m.Program, found[0], msi} {
		if !verifies(cert, file) {
			t.Errorf("%s does not verify", file)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []int{len(b) / 3, len(b) / 2} {
			b[at] ^= 1
			if err := os.WriteFile(file, b, 0o644); err != nil {
				t.Fatal(err)
			}
			if verifies(cert, file) {
				t.Errorf("%s verifies with byte %d of %d changed", file, at, len(b))
			}
			b[at] ^= 1
		}
	}
}

func TestSigningFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(file, []byte("program"), 0o644); err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]string{
		"cp {in} {out}; echo no key >&2; false": "no key",
		": {in} {out}":                          "wrote nothing",
		"cp {in} {out}":                         "signed nothing",
		"sign {in}":                             "{out}",
	} {
		if err := Sign(t.Context(), command, file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", command, err, want)
		}
		if b, err := os.ReadFile(file); err != nil || string(b) != "program" {
			t.Errorf("%s: the file became %q, %v", command, b, err)
		}
	}
	if err := Sign(t.Context(), "", file); err != nil {
		t.Error(err)
	}
}

// Another program finds the version and the manifest, and they come out the
// same each time.
func TestResources(t *testing.T) {
	testenv.Need(t, "wrestool")
	a, b := program(t, "1.2.3-rc1"), program(t, "1.2.3-rc1")
	first, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := os.ReadFile(b); err != nil || string(first) != string(second) {
		t.Errorf("two builds differ (%v)", err)
	}
	version := strings.ReplaceAll(output(t, "wrestool", "--raw", "-x", "--type=16", a), "\x00", "")
	for _, want := range []string{"1.2.3-rc1", "MED-V image pre-staging", "prestage.exe", "Apache License 2.0"} {
		if !strings.Contains(version, want) {
			t.Errorf("%q is not in the version resource", want)
		}
	}
	got := output(t, "wrestool", "--raw", "-x", "--type=24", a)
	for _, want := range []string{">true</longPathAware>", ">UTF-8</activeCodePage>", `level="asInvoker"`, "{8e0f7a12-bfb3-4fe8-b9a5-48fd50a15a9a}"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in the manifest:\n%s", want, got)
		}
	}
}
