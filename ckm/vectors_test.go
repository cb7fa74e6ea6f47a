package ckm_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"prestage/ckm"
)

var update = flag.Bool("update", false, "write testdata/vectors and the worked example of doc/format.md")

const (
	vectorDir     = "testdata/vectors"
	maxVectorSize = 20000 // bytes of its file
)

// vector is a file in testdata/vectors.
type vector struct {
	fields map[string]string
	index  []byte
}

// formatVector writes a vector as doc/format.md, Test vectors, describes it.
func formatVector(p []byte, fields ...string) []byte {
	var b bytes.Buffer
	for i := 0; i < len(fields); i += 2 {
		fmt.Fprintf(&b, "%s: %s\n", fields[i], fields[i+1])
	}
	b.WriteByte('\n')
	for ; len(p) > 0; p = p[min(40, len(p)):] {
		fmt.Fprintf(&b, "%x\n", p[:min(40, len(p))])
	}
	return b.Bytes()
}

func parseVector(text []byte) (vector, error) {
	head, body, ok := strings.Cut(string(text), "\n\n")
	if !ok {
		return vector{}, errors.New("no empty line")
	}
	v := vector{fields: map[string]string{}}
	for _, line := range strings.Split(head, "\n") {
		key, value, ok := strings.Cut(line, ": ")
		if !ok {
			return vector{}, fmt.Errorf("line %q", line)
		}
		v.fields[key] = value
	}
	var err error
	v.index, err = hex.DecodeString(strings.ReplaceAll(body, "\n", ""))
	return v, err
}

// makeVectors returns all vectors by their file names.
func makeVectors(t testing.TB) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	add := func(name string, text []byte) {
		if len(text) < maxVectorSize {
			all[name+".txt"] = text
		}
	}
	for _, c := range goodCases() {
		p := c.model.build()
		x := must(t, p)
		add("ok-"+c.name, formatVector(p, "comment", c.comment, "expect", "ok", "package-digest", x.Digest().String(),
			"chunks", fmt.Sprint(x.Chunks()), "frames", fmt.Sprint(x.Frames()), "ckm-length", fmt.Sprint(x.CKMLength)))
	}
	addSignedVectors(t, add)
	for _, c := range refusedCases() {
		add("refused-"+c.name, formatVector(c.index, "comment", c.comment, "expect", "refused"))
	}
	return all
}

// readVectors reads all vectors that there are.
func readVectors(t testing.TB) map[string]vector {
	t.Helper()
	files, err := filepath.Glob(vectorDir + "/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]vector{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		v, err := parseVector(text)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all[filepath.Base(file)] = v
	}
	return all
}

// TestVectorsAreCurrent checks that the files are what the cases make. They
// must never change but with the format: other readers are tested by them.
func TestVectorsAreCurrent(t *testing.T) {
	all := makeVectors(t)
	if *update {
		for name := range readVectors(t) {
			if all[name] == nil {
				os.Remove(filepath.Join(vectorDir, name))
			}
		}
		for name, text := range all {
			if err := os.WriteFile(filepath.Join(vectorDir, name), text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name := range readVectors(t) {
		if all[name] == nil {
			t.Errorf("%s belongs to no case", name)
		}
	}
	for name, want := range all {
		got, err := os.ReadFile(filepath.Join(vectorDir, name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what its case makes; if the format really changed: go test ./ckm -update (%v)", name, err)
		}
	}
}

// TestVectors decodes the files, as a reader in another language would.
func TestVectors(t *testing.T) {
	count := map[string]int{}
	for name, v := range readVectors(t) {
		x, err := ckm.Decode(v.index)
		expect := v.fields["expect"]
		count[expect]++
		switch expect {
		case "ok":
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			got := []string{x.Digest().String(), fmt.Sprint(x.Chunks()), fmt.Sprint(x.Frames()), fmt.Sprint(x.CKMLength)}
			want := []string{v.fields["package-digest"], v.fields["chunks"], v.fields["frames"], v.fields["ckm-length"]}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: %v, want %v", name, got, want)
			}
			if p, err := x.Encode(); err != nil || !bytes.Equal(p, v.index) {
				t.Errorf("%s: encoding again gives other bytes (%v)", name, err)
			}
		case "refused":
			if !errors.Is(err, ckm.ErrFormat) && !errors.Is(err, ckm.ErrUnsupported) {
				t.Errorf("%s: %v", name, err)
			}
		default:
			t.Errorf("%s: expect: %q", name, expect)
		}
		if v.fields["comment"] == "" {
			t.Errorf("%s has no comment", name)
		}
	}
	if count["ok"] < 6 || count["refused"] < 20 {
		t.Errorf("only %v", count)
	}
	t.Logf("%v", count)
}
