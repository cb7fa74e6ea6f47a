package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// allowed says which packages of the project each package may import. It is the
// data's path, from the inside to the outside; doc/design.md draws it.
var allowed = map[string][]string{
	"internal/deflate":  {},
	"ckm":               {"internal/deflate"},
	"internal/chunk":    {},
	"internal/progress": {},
	"internal/durable":  {},
	"internal/daytime":  {},
	"internal/acl":      {},
	"internal/sign":     {"ckm"},
	"internal/policy":   {"ckm", "internal/daytime", "internal/sign"},
	"internal/settings": {"internal/durable", "internal/sign"},
	"internal/event":    {"ckm", "internal/durable"},
	"internal/ledger":   {"internal/event"},
	"internal/disk":     {"ckm"},
	// A file system knows nothing of what it is read for.
	"internal/fsmap/volume": {},
	"internal/fsmap/btrfs":  {"internal/fsmap/volume"},
	"internal/fsmap/ext":    {"internal/fsmap/volume"},
	"internal/fsmap/ntfs":   {"internal/fsmap/volume"},
	"internal/fsmap/fat":    {"internal/fsmap/volume"},
	"internal/fsmap/xfs":    {"internal/fsmap/volume"},
	"internal/fsmap/guest":  {"internal/disk", "internal/fsmap", "internal/fsmap/volume"},
	"internal/fsmap/fstest": {"internal/fsmap/volume", "internal/testenv"},
	"internal/fsmap/lvm":    {"internal/fsmap/volume"},
	"internal/fsmap/part":   {"internal/fsmap/volume"},
	"internal/fsmap": {"internal/fsmap/btrfs", "internal/fsmap/ext", "internal/fsmap/fat", "internal/fsmap/lvm", "internal/fsmap/ntfs", "internal/fsmap/part",
		"internal/fsmap/volume", "internal/fsmap/xfs"},
	"internal/pack":      {"ckm", "internal/chunk", "internal/disk", "internal/fsmap", "internal/fsmap/volume", "internal/progress"},
	"internal/patch":     {"ckm", "internal/disk", "internal/fsmap", "internal/fsmap/guest", "internal/progress", "internal/repo"},
	"internal/repo":      {"ckm", "internal/durable", "internal/event", "internal/ticket"},
	"internal/assemble":  {"ckm", "internal/disk", "internal/durable", "internal/progress", "internal/repo"},
	"internal/verify":    {"ckm", "internal/assemble", "internal/durable", "internal/progress", "internal/repo", "internal/sign"},
	"internal/host":      {"internal/acl", "internal/settings"},
	"internal/localhost": {"internal/acl", "internal/durable", "internal/host", "internal/settings"},
	// The procedure knows hosts by their interface alone, never an adapter.
	"internal/prestage": {"ckm", "internal/acl", "internal/assemble", "internal/durable", "internal/host",
		"internal/progress", "internal/repo", "internal/settings", "internal/sign", "internal/verify"},
	"internal/bundle":   {"ckm", "internal/assemble", "internal/durable", "internal/prestage", "internal/progress", "internal/repo", "internal/settings", "internal/sign"},
	"internal/ownfiles": {"ckm", "internal/disk", "internal/durable", "internal/pack", "internal/progress"},
	"internal/client":   {"ckm", "internal/assemble", "internal/durable", "internal/ownfiles", "internal/progress", "internal/repo", "internal/sign"},
	"internal/agent": {"ckm", "internal/client", "internal/durable", "internal/event", "internal/host", "internal/ownfiles", "internal/policy", "internal/prestage",
		"internal/progress", "internal/repo", "internal/settings", "internal/sign"},
	"internal/service":       {"internal/durable"},
	"internal/server":        {"ckm", "internal/durable", "internal/event", "internal/repo", "internal/server/access", "internal/server/pace", "internal/server/reload", "internal/server/upload"},
	"internal/server/upload": {"ckm", "internal/durable", "internal/patch", "internal/repo", "internal/sign", "internal/verify"},
	"internal/server/pace":   {},
	"internal/server/access": {"internal/server/reload"},
	"internal/server/reload": {},
	"internal/msrpc":         {},
	"internal/ticket":        {},
	"internal/smbhost":       {"internal/acl", "internal/host", "internal/msrpc", "internal/settings", "internal/ticket"},
	"internal/sshhost":       {"internal/acl", "internal/host", "internal/settings"},
	// A fleet knows its machines by what a Job makes of them, never an adapter.
	"internal/fleet":      {"internal/daytime", "internal/durable", "internal/host", "internal/prestage", "internal/repo", "internal/sign"},
	"internal/fleet/view": {"internal/fleet"},
	"cmd/prestage": {"ckm", "internal/agent", "internal/assemble", "internal/bundle", "internal/client", "internal/daytime", "internal/disk", "internal/durable", "internal/event", "internal/fleet", "internal/fleet/view", "internal/fsmap", "internal/fsmap/guest", "internal/fsmap/volume", "internal/host", "internal/ledger",
		"internal/localhost", "internal/pack", "internal/patch", "internal/policy", "internal/prestage", "internal/repo", "internal/server", "internal/server/access", "internal/server/upload", "internal/service", "internal/settings", "internal/sign", "internal/smbhost", "internal/sshhost", "internal/ticket", "internal/verify"},

	"internal/host/hosttest": {"internal/acl", "internal/host", "internal/settings"},
	"internal/testenv":       {},
	"internal/nettest":       {"internal/testenv"},
	"internal/sambatest":     {"internal/nettest", "internal/testenv"},
	"internal/ptytest":       {},
	"internal/krbtest":       {"internal/testenv"},
	"internal/pgtest":        {"internal/testenv"},
	"internal/winetest":      {"internal/testenv"},
	"internal/crashtest":     {},
	"internal/arch":          {},
	"bench":                  {},
	"bench/events":           {"internal/event"},
	"installer":              {"internal/acl", "internal/service"},
	"scripts/dist":           {"installer"},
	"scripts/notices":        {},
}

// pure packages know nothing of files and networks.
var pure = []string{"ckm", "internal/chunk", "internal/acl", "internal/progress", "internal/sign"}

type pkg struct {
	ImportPath string
	Dir        string
	Imports    []string
	GoFiles    []string
}

const module = "prestage"

func packages(t *testing.T) (list []pkg) {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Imports,GoFiles", "./...")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		p.ImportPath = strings.TrimPrefix(p.ImportPath, module+"/")
		list = append(list, p)
	}
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		may, known := allowed[p.ImportPath]
		if !known {
			t.Errorf("package %s has no place in the layout: add it to the table and to doc/design.md", p.ImportPath)
			continue
		}
		for _, i := range p.Imports {
			if in, ok := strings.CutPrefix(i, module+"/"); ok && !slices.Contains(may, in) {
				t.Errorf("package %s may not import %s", p.ImportPath, in)
			}
			if slices.Contains(pure, p.ImportPath) && slices.Contains([]string{"os", "net", "net/http", "path/filepath", "os/exec", "syscall"}, i) {
				t.Errorf("package %s may not import %s: it does no input or output", p.ImportPath, i)
			}
			if i == "C" {
				t.Errorf("package %s uses cgo", p.ImportPath)
			}
		}
	}
}

func TestOnePackageComment(t *testing.T) {
	for _, p := range packages(t) {
		comments := 0
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if f.Doc != nil {
				comments++
			}
		}
		if len(p.GoFiles) > 0 && comments != 1 {
			t.Errorf("package %s has %d package comments, should have one", p.ImportPath, comments)
		}
	}
}

func TestFilesAreShort(t *testing.T) {
	const limit = 500 // most are far below; this catches those that grow
	err := filepath.WalkDir(root(t), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		if n := bytes.Count(b, []byte("\n")); n > limit {
			t.Errorf("%s has %d lines: does it hold more than one job?", path, n)
		}
		if filepath.Base(path) == "main.go" && strings.Contains(path, filepath.Join("cmd", "")) && bytes.Count(b, []byte("\n")) > 40 {
			t.Errorf("%s has more than 40 lines", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
