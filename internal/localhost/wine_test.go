//go:build linux

package localhost

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"prestage/internal/testenv"
	"prestage/internal/winetest"
)

func TestMain(m *testing.M) { winetest.Main(m) }

// These tests run the program for Windows as it is released and look at what it
// asks of the system: Wine keeps no DACLs. What the rights must be is written
// here once more, in the contract's words.
const (
	setDACL  = 0x80000004 // PROTECTED_DACL_SECURITY_INFORMATION, DACL_SECURITY_INFORMATION
	setOwner = 0x1        // OWNER_SECURITY_INFORMATION

	protected  = 0x1004 // SE_DACL_PROTECTED, SE_DACL_PRESENT
	toChildren = 0x3    // OBJECT_INHERIT_ACE, CONTAINER_INHERIT_ACE

	authenticatedUsers = "S-1-5-11"
	system             = "S-1-5-18"
	administrators     = "S-1-5-32-544"

	readAppend = 0x12008d // READ_CONTROL, SYNCHRONIZE, FILE_READ_DATA, _EA, _ATTRIBUTES, FILE_APPEND_DATA
	readOnly   = 0x120089 // the same without FILE_APPEND_DATA
	full       = 0x1f01ff
)

func entries(flags, users uint32) []winetest.Entry {
	return []winetest.Entry{
		{Type: "ACCESS_ALLOWED", Flags: flags, Mask: users, SID: authenticatedUsers},
		{Type: "ACCESS_ALLOWED", Flags: flags, Mask: full, SID: system},
		{Type: "ACCESS_ALLOWED", Flags: flags, Mask: full, SID: administrators},
	}
}

const (
	recommendedDir = `C:\recommended`
	strictDir      = `D:\strict`
)

// traced is all that was asked for by two runs of the program: one that set up
// and pushed with the recommended rights, one with the strict ones.
var traced struct{ recommended, strict []winetest.SecurityRequest }

// trace makes both runs when it is called first.
func trace(t *testing.T) *winetest.Prefix {
	t.Helper()
	p := winetest.New(t)
	if traced.strict != nil {
		return p
	}
	work := t.TempDir()
	if err := os.WriteFile(filepath.Join(work, "a.img"), testenv.Text(1, 600<<10), 0o644); err != nil {
		t.Fatal(err)
	}
	prestage := winetest.Build(t)
	run := func(debug string, args ...string) []winetest.SecurityRequest {
		t.Helper()
		r := p.Run(t, winetest.Command{Dir: work, Args: append([]string{prestage}, args...), Debug: debug})
		if r.Code != 0 {
			t.Fatalf("prestage %s: %v", strings.Join(args, " "), r)
		}
		list := winetest.SecurityRequests(r.Trace)
		if debug != "" && len(list) == 0 {
			t.Fatalf("prestage %s: nothing about security in %d bytes of trace", strings.Join(args, " "), len(r.Trace))
		}
		return list
	}
	folder := func(windows string) string {
		t.Helper()
		if err := os.Mkdir(p.Unix(windows), 0o755); err != nil {
			t.Fatal(err)
		}
		return windows
	}
	run("", "pack", "a.img", "--name", "win", "--images", "repo")
	list := run("+server", "setup", folder(recommendedDir), "--config", "one.toml")
	traced.recommended = append(list, run("+server", "push", "win", "--images", "repo", "--config", "one.toml")...)
	p.Drive(t, 'D', work)
	traced.strict = run("+server", "setup", folder(strictDir), "--strict", "--config", "two.toml")
	return p
}

// about returns what was asked for about one file or folder.
func about(list []winetest.SecurityRequest, path string) (found []winetest.SecurityRequest) {
	for _, r := range list {
		if strings.EqualFold(r.Path, path) {
			found = append(found, r)
		}
	}
	return found
}

// check fails unless the folder or file was given exactly these rights, and
// never any others: from its creation on if created is set.
func check(t *testing.T, list []winetest.SecurityRequest, path string, created bool, want []winetest.Entry) {
	t.Helper()
	found := about(list, path)
	if len(found) == 0 || found[0].Created != created {
		t.Fatalf("%s: requests %+v", path, found)
	}
	dacl := false
	for _, r := range found {
		switch {
		case r.Created:
			dacl = true
		case r.Info == setDACL || r.Info == setDACL|setOwner:
			dacl = true
		default:
			t.Errorf("%s: security information %#x is set", path, r.Info)
		}
		if r.Control != protected || r.Owner != administrators || !slices.Equal(r.Entries, want) {
			t.Errorf("%s: control %#x, owner %s, entries %+v; want %#x, %s, %+v", path, r.Control, r.Owner, r.Entries, protected, administrators, want)
		}
	}
	if !dacl {
		t.Errorf("%s: its DACL was not set", path)
	}
}

func TestS3ImagesFolder(t *testing.T) {
	trace(t)
	check(t, traced.recommended, recommendedDir+`\MED-V Images`, true, entries(toChildren, readAppend))
}

func TestS3StrictLeavesAppendOut(t *testing.T) {
	trace(t)
	check(t, traced.strict, strictDir+`\MED-V Images`, true, entries(toChildren, readOnly))
	check(t, traced.strict, strictDir+`\MED-V Images\PrestagedImages`, true, entries(toChildren, readOnly))
}

func TestS4PrestagedFolder(t *testing.T) {
	trace(t)
	staged := recommendedDir + `\MED-V Images\PrestagedImages`
	check(t, traced.recommended, staged, true, entries(toChildren, readOnly))
	check(t, traced.recommended, staged+`\.prestage`, true, entries(toChildren, readOnly))
}

// The rights of S4 are set on every file while it has its unfinished name.
func TestS4StagedFiles(t *testing.T) {
	trace(t)
	for _, name := range []string{"win_1.ckm", "win_1.index"} {
		check(t, traced.recommended, recommendedDir+`\MED-V Images\PrestagedImages\.prestage\`+name+".partial", false, entries(0, readOnly))
	}
}

// Nothing but the procedure's own folders and files is touched.
func TestS3S4NothingElse(t *testing.T) {
	trace(t)
	for _, q := range slices.Concat(traced.recommended, traced.strict) {
		if q.Created && strings.HasSuffix(q.Path, `\PrestagedImages\.prestage\lock`) {
			// Whoever can open a lock could hold it for ever: its owner
			// (S-1-3-4) and administrators alone can.
			if q.Control != protected || len(q.Entries) != 3 || q.Entries[0].SID != "S-1-3-4" {
				t.Errorf("%+v", q)
			}
			continue
		}
		in := strings.HasPrefix(q.Path, recommendedDir+`\MED-V Images`) || strings.HasPrefix(q.Path, strictDir+`\MED-V Images`)
		if ours := slices.ContainsFunc(q.Entries, func(e winetest.Entry) bool { return e.SID == authenticatedUsers }); ours != in {
			t.Errorf("%+v", q)
		}
	}
}

// Every Windows program sees the attribute.
func TestS7ReadOnlyAttribute(t *testing.T) {
	p := trace(t)
	for _, name := range []string{"win_1.ckm", "win_1.index"} {
		path := recommendedDir + `\MED-V Images\PrestagedImages\` + name
		r := p.Run(t, winetest.Command{Args: []string{"attrib", path}})
		before, _, found := strings.Cut(r.Stdout, path)
		if !found || !strings.Contains(before, "R") {
			t.Errorf("attrib says %v", r)
		}
		// One that is not marked looks otherwise.
		if err := os.Chmod(p.Unix(path), 0o644); err != nil {
			t.Fatal(err)
		}
		r = p.Run(t, winetest.Command{Args: []string{"attrib", path}})
		if before, _, _ := strings.Cut(r.Stdout, path); strings.Contains(before, "R") {
			t.Errorf("attrib says of a file that may be written to: %v", r)
		}
	}
}
