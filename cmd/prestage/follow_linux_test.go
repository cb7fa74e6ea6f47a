package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"prestage/internal/nettest"
)

// follower is a machine with an agent that follows a server on another one.
type follower struct {
	*office
	server, client *nettest.Machine
	config, images string // the client's settings, its MED-V Images
}

// serve starts the server, which ends with Halt.
func (f *follower) serve(t *testing.T) {
	t.Helper()
	f.server.Serve(t, "8080", f.exe, "serve", "--images", f.repo, "--listen", f.server.Address+":8080", "--drain", "1s", "--events", f.events())
}

func (f *follower) events() string { return filepath.Join(f.work, "events.db") }

// agent starts the agent, which ends with Halt.
func (f *follower) agent(t *testing.T) {
	t.Helper()
	cmd := f.client.Command(f.exe, "agent", "run", "--config", f.config)
	log, err := os.OpenFile(f.client.Path("agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go cmd.Wait()
}

// poll has the agent ask the server.
func (f *follower) poll(t *testing.T) {
	t.Helper()
	if out, err := f.client.Command(f.exe, "agent", "poll", "--wait", "2m", "--config", f.config).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s\n%s", err, out, f.log())
	}
}

func (f *follower) log() string {
	b, _ := os.ReadFile(f.client.Path("agent.log"))
	return string(b)
}

func (f *follower) eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: this has not happened; the agent told:\n%s", what, f.log())
		}
	}
}

func (f *follower) path(elem ...string) string {
	return filepath.Join(append([]string{f.images}, elem...)...)
}

func (f *follower) there(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// partly reports whether some of a file has come, under whatever name.
func (f *follower) partly(dir, name string, least int64) bool {
	found := false
	filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && strings.Contains(p, name) {
			if st, err := d.Info(); err == nil && !d.IsDir() && st.Sys().(*syscall.Stat_t).Blocks*512 >= least {
				found = true
			}
		}
		return nil
	})
	return found
}

// From nothing to an image that is installed, a later version that is pre-staged
// ahead of its release, and updated to: by policy alone, through cuts of the network
// and ends of server and agent.
func TestFollow(t *testing.T) {
	f := &follower{office: newOffice(t)}
	f.server, f.client = f.Add(t, "server"), f.Add(t, "client")
	f.config, f.images = f.client.Path("prestage.toml"), f.client.Path("MED-V Images")
	key := filepath.Join(f.work, "admin.key")
	f.run(t, 0, "key", "new", key, "--no-password")
	f.pack(t, "win11", 1, 24<<20)
	f.run(t, 0, "sign", "win11", "--key", key, "--images", f.repo)
	policy := func(args ...string) {
		t.Helper()
		f.run(t, 0, append([]string{"policy", "set", "win11", "--images", f.repo, "--key", key}, args...)...)
	}
	policy("--machines", "*", "--version", "1", "--limit", "2MiB")
	f.serve(t)

	// The machine is told where the server is, and whom to trust: that is all.
	public := strings.TrimSuffix(key, ".key") + ".pub"
	f.run(t, 0, "setup", f.client.Home, "--trusted-key", public, "--config", f.config)
	text, err := os.ReadFile(f.config)
	if err != nil {
		t.Fatal(err)
	}
	text = append([]byte("server = \"http://"+f.server.Address+":8080/MEDVImages/\"\n"), text...)
	if err := os.WriteFile(f.config, text, 0o644); err != nil {
		t.Fatal(err)
	}
	f.agent(t)
	// The network is cut in the middle, and the server ends.
	f.eventually(t, "the download has begun", func() bool { return f.partly(f.path("win11"), "win11-1.img", 4<<20) })
	f.client.Cut(t)
	f.server.Halt(t)
	time.Sleep(500 * time.Millisecond)
	if f.there(f.path("win11", "1")) {
		t.Fatal("it came too fast to be cut")
	}
	f.client.Heal(t)
	f.serve(t)
	f.eventually(t, "version 1 is installed", func() bool { return f.there(f.path("win11", "1")) })
	f.same(t, "1", "win11-1.img")

	// The next version comes ahead of its release; the agent is killed meanwhile.
	f.packInto(t, f.repo, "win11", 2, 24<<20)
	f.run(t, 0, "sign", "win11", "--key", key, "--images", f.repo)
	policy("--ahead", "2")
	f.poll(t)
	f.eventually(t, "pre-staging has begun", func() bool { return f.partly(f.path("PrestagedImages"), "win11_2.ckm", 4<<20) })
	f.client.Halt(t)
	if f.there(f.path("PrestagedImages", "win11_2.index")) {
		t.Fatal("it came too fast to be cut")
	}
	f.agent(t)
	f.eventually(t, "version 2 is pre-staged", func() bool { return f.there(f.path("PrestagedImages", "win11_2.index")) })
	if f.there(f.path("win11", "2")) {
		t.Error("version 2 was installed before its release")
	}

	// It is released, and needs the server no more.
	policy("--version", "2", "--update", "force", "--keep", "0", "--update-from-prestaged", "on")
	f.poll(t)
	f.eventually(t, "version 2 is installed", func() bool { return f.there(f.path("win11", "2")) })
	f.same(t, "2", "win11-2.img")
	f.eventually(t, "version 1 is removed", func() bool { return !f.there(f.path("win11", "1")) })
	f.eventually(t, "the package is taken out of the pre-stage folder", func() bool { return !f.there(f.path("PrestagedImages", "win11_2.ckm")) })

	// Reports show it all, also what happened while nobody could be told.
	for _, want := range []string{"installed win11:1 in ", "pre-staged win11:2, which is to be released", "updated image win11 from version 1 to 2", "removed version 1 of image win11"} {
		f.eventually(t, "a report of "+want, func() bool {
			out, err := exec.Command(f.exe, "report", "activity", "--events", f.events()).CombinedOutput()
			return err == nil && strings.Count(string(out), want) == 1
		})
	}
	f.eventually(t, "a report of the machine", func() bool {
		out, err := exec.Command(f.exe, "report", "status", "--events", f.events(), "--format", "csv").CombinedOutput()
		return err == nil && strings.Contains(string(out), ",win11,2,")
	})

	// Somebody else's policy changes nothing.
	f.packInto(t, f.repo, "win11", 3, 24<<20)
	f.run(t, 0, "sign", "win11", "--key", key, "--images", f.repo)
	f.run(t, 0, "policy", "set", "win11", "--version", "3", "--images", f.repo)
	f.poll(t)
	f.eventually(t, "the policy is refused", func() bool { return strings.Contains(f.log(), "not signed by a trusted key") })
	if f.there(f.path("win11", "3")) {
		t.Error("a policy was followed that nobody trusted has signed")
	}
}

// same compares an installed image with what was packed.
func (f *follower) same(t *testing.T, version, file string) {
	t.Helper()
	want, err := os.ReadFile(filepath.Join(f.work, file))
	if err != nil {
		t.Fatal(err)
	}
	dir := f.path("win11", version)
	if got, err := os.ReadFile(filepath.Join(dir, file)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s in %s is not what was packed: %v", file, dir, err)
	}
}
