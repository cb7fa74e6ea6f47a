package smbhost

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"prestage/ckm"
	"prestage/internal/disk"
	"prestage/internal/host"
	"prestage/internal/msrpc"
	"prestage/internal/pack"
	"prestage/internal/prestage"
	"prestage/internal/progress"
	"prestage/internal/repo"
	"prestage/internal/sambatest"
	"prestage/internal/testenv"
)

// packed returns a folder with a package of an image of some MiB.
func packed(t *testing.T, name string) *repo.Folder {
	return packedFrom(t, name, append(testenv.Text(1, 6<<20), testenv.Random(2, 3<<20)...))
}

func packedFrom(t *testing.T, name string, data []byte) *repo.Folder {
	image := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(image, data, 0o644); err != nil {
		t.Fatal(err)
	}
	files, err := disk.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer files[0].Close()
	r := repo.NewFolder(t.TempDir())
	if _, _, err := r.Add(t.Context(), name, func(w io.Writer) (*ckm.Index, error) {
		return pack.Write(t.Context(), w, files, pack.Options{Meter: progress.Discard})
	}); err != nil {
		t.Fatal(err)
	}
	return r
}

// The whole procedure on a machine that is reached over the network; what came
// of it is asked of Samba's own tools.
func TestProcedure(t *testing.T) {
	s := startSamba(t)
	testenv.Need(t, "smbclient")
	ctx := t.Context()
	h := s.dial(t, "root")
	hive, err := h.hive()
	if err != nil {
		t.Fatal(err)
	}
	// What tells 64-bit Windows from others.
	if err := h.remote.registry.Set(`SOFTWARE\WOW6432Node\Microsoft\Windows NT\CurrentVersion`, "SystemRoot", msrpc.TypeText, msrpc.Text(`C:\Windows`)); err != nil {
		t.Fatal(err)
	}
	if hive.Is64Bit() {
		t.Error("before it has the value, it counts as 64-bit Windows")
	}
	h = s.dial(t, "root")
	if _, err := prestage.Setup(ctx, h, `C:\`, ""); err != nil {
		t.Fatal(err)
	}
	r := packed(t, "win11")
	done, err := prestage.Push(ctx, h, r, "win11", 1, prestage.PushOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if done.Receipt == nil || done.Already {
		t.Errorf("pushed %+v", done)
	}
	if done, err = prestage.Push(ctx, h, r, "win11", 1, prestage.PushOptions{}); err != nil || !done.Already || done.Moved != 0 {
		t.Errorf("pushing again: %+v, %v", done, err)
	}
	st, err := prestage.GetStatus(ctx, h)
	if err != nil || !st.OK() || len(st.Packages) != 1 || !st.Packages[0].Sealed {
		t.Errorf("status %+v, %v", st, err)
	}
	out, err := exec.Command("net", "rpc", "registry", "getvalue", `HKLM\SOFTWARE\WOW6432Node\Kidaro`, "PrestagedImagesPath",
		"-I", "127.0.0.1", "-p", s.Port, "-U", "root%"+sambatest.Password, "-s", s.Path("smb.conf")).CombinedOutput()
	if err != nil || !strings.Contains(string(out), `C:\MED-V Images\PrestagedImages`) {
		t.Errorf("the registry holds %s, %v", out, err)
	}

	// An ordinary user reads, and nothing else.
	user := func(commands string) string {
		out, _ := exec.Command("smbclient", "-p", s.Port, "-U", "nobody%"+sambatest.Password, "//127.0.0.1/Users", "-s", s.Path("smb.conf"),
			"-D", `MED-V Images\PrestagedImages`, "-c", commands).CombinedOutput()
		return string(out)
	}
	local := filepath.Join(t.TempDir(), "copy")
	if out := user("get win11_1.index " + local); !strings.Contains(out, "getting file") {
		t.Errorf("reading: %s", out)
	}
	for what, command := range map[string]string{"writing": "put " + local + " mine", "replacing": "put " + local + " win11_1.index",
		"removing": "rm win11_1.ckm", "making a folder": "mkdir mine", "renaming": "rename win11_1.ckm other"} {
		if out := user(command); !strings.Contains(out, "NT_STATUS_ACCESS_DENIED") && !strings.Contains(out, "NT_STATUS_CANNOT_DELETE") {
			t.Errorf("%s is not refused: %s", what, out)
		}
	}
	if err := prestage.Remove(ctx, h, "win11", 1, false); err != nil {
		t.Fatal(err)
	}
}

// Somebody who is no administrator is told so.
func TestNoAdministrator(t *testing.T) {
	s := startSamba(t)
	h := s.dial(t, "nobody")
	if _, err := prestage.Setup(t.Context(), h, `C:\`, ""); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("an ordinary user who sets up: %v", err)
	}
	if _, err := Dial(t.Context(), Options{Name: "127.0.0.1", Port: s.Port, User: "root", Password: "wrong"}); !errors.Is(err, host.ErrLogon) {
		t.Errorf("a wrong password: %v", err)
	}
}

// A machine whose registry is not offered over the network is asked to start the
// service; where that cannot be asked for either, the error says so.
func TestNoRegistry(t *testing.T) {
	s := startSamba(t, "rpc start on demand helpers = no")
	h := s.dial(t, "root")
	_, err := h.Settings(t.Context())
	if err == nil || !strings.Contains(err.Error(), "starting the service RemoteRegistry") {
		t.Errorf("%v", err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file is missing: %v", err)
	}
}
