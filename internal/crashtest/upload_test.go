//go:build linux

package crashtest

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"prestage/ckm"
)

// counter is a world with a server that takes packages, and a folder where they are
// packed. Its folder of packages is the server's.
type counter struct {
	*world
	shop    string // where packages are packed
	url     string
	args    []string // of the server
	server  *process
	version uint32 // that was packed last
}

func newCounter(t *testing.T) *counter {
	c := &counter{world: newWorld(t)}
	c.shop = filepath.Join(c.dir, "shop")
	if err := os.MkdirAll(c.images, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free, also when the server is started anew
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	c.url = "http://" + l.Addr().String() + "/MEDVImages/"
	tokens, rights := filepath.Join(c.dir, "tokens"), filepath.Join(c.dir, "rights.toml")
	if err := os.WriteFile(rights, []byte("[[allow]]\nimages = ['*']\nreaders = ['*']\nwriters = ['*']\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(c.must("serve", "token", "build", "--tokens", tokens).out)
	c.env = append(c.env, "PRESTAGE_TOKEN="+token)
	c.args = []string{"serve", "--listen", l.Addr().String(), "--images", c.images, "--tokens", tokens, "--rights", rights}
	c.serve()
	return c
}

// serve starts the server, which waits until it answers.
func (c *counter) serve() {
	c.t.Helper()
	c.server = c.start(c.args...)
	eventually(c.t, "the server answers", func() bool {
		resp, err := http.Get(strings.TrimSuffix(c.url, "MEDVImages/") + "healthz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// pack packs a next version of one of two disks.
func (c *counter) pack(seed byte) {
	c.t.Helper()
	c.must("pack", diskImage(c.t, seed, large), "--name", "vm", "--images", c.shop)
	c.version++
}

func (c *counter) upload(more ...string) []string {
	return append([]string{"upload", fmt.Sprintf("vm:%d", c.version), "--images", c.shop, "--to", c.url}, more...)
}

// arrived checks that the last package is there, as it was packed, and that nothing
// of it is left over.
func (c *counter) arrived() error {
	errs := []error{c.checkImages()}
	for _, f := range []string{ckm.IndexName("vm", c.version), ckm.DataName("vm", c.version), ckm.PatchName("vm", c.version)} {
		if _, err := os.Stat(filepath.Join(c.shop, f)); errors.Is(err, fs.ErrNotExist) {
			continue // there need not be a patch
		}
		errs = append(errs, same(filepath.Join(c.images, f), filepath.Join(c.shop, f)))
	}
	left, _ := filepath.Glob(filepath.Join(c.images, ".prestage-uploads", "[0-9a-f]*"))
	if len(left) > 0 {
		errs = append(errs, fmt.Errorf("uploads are left: %q", left))
	}
	if r := c.run("list", "--images", c.url); r.code != 0 || !strings.Contains(r.out, fmt.Sprintf("vm          %d ", c.version)) {
		errs = append(errs, fmt.Errorf("it is not listed: %v", r))
	}
	return errors.Join(errs...)
}

// TestKillUpload kills the client, the server, or both, while a package is uploaded.
func TestKillUpload(t *testing.T) {
	t.Parallel()
	c := newCounter(t)
	rng, times := seeded(t), 25
	if testing.Short() {
		times = 10
	}
	c.pack(1)
	span := c.must(c.upload()...).took
	if err := c.arrived(); err != nil {
		t.Fatal(err)
	}
	c.pack(2)
	killed := map[string]int{}
	for range times {
		client := c.start(c.upload()...)
		time.Sleep(time.Duration(rng.Int64N(int64(span))))
		what := []string{"client", "server", "both"}[rng.IntN(3)]
		hit := false
		if what != "server" {
			hit = client.kill()
		}
		if what != "client" {
			hit = c.server.kill() || hit
			c.finishedBut()
			if err := c.checkImages(); err != nil {
				t.Fatalf("the server was killed: %v", err)
			}
			c.serve()
		}
		if hit {
			killed[what]++
		}
		if what == "server" { // the client goes on by itself
			if r := client.wait(); r.code != 0 {
				t.Fatalf("the client does not go on: %v", r)
			}
		} else if err := c.checkImages(); err != nil {
			t.Fatalf("killed: %s: %v", what, err)
		}
		if what == "server" || rng.IntN(2) == 0 {
			r := c.must(c.upload()...)
			if err := c.arrived(); err != nil {
				t.Fatalf("killed: %s; then %v\n%v", what, r, err)
			}
			if c.version%3 == 0 {
				c.must("remove", fmt.Sprintf("vm:%d", c.version-2), "--images", c.url)
			}
			c.pack(byte(1 + c.version%2))
		}
	}
	c.must(c.upload()...)
	if err := c.arrived(); err != nil {
		t.Fatal(err)
	}
	t.Logf("killed: %v, at moments spread over %v", killed, span)
}

// finishedBut allows what a server that was killed has left: it is unseen.
func (c *counter) finishedBut() {
	c.t.Helper()
	for _, p := range c.leftovers() {
		if filepath.Dir(p) != c.images && !strings.Contains(p, ".prestage-uploads") {
			c.t.Errorf("left: %s", p)
		}
	}
}

// A disk that is too small is known before anything is sent; one that becomes full
// meanwhile ends the upload, which goes on when there is room.
func TestDiskFullUpload(t *testing.T) {
	t.Parallel()
	c := newCounter(t)
	c.server.kill()
	tmpfs(t, c.images, enough)
	c.serve()
	c.pack(1)
	c.must(c.upload()...)
	c.pack(2)

	undo := fill(t, c.images)
	c.refused(1, []string{"507", "make room there"}, c.upload()...)
	if err := c.checkImages(); err != nil {
		t.Error(err)
	}
	undo()

	before := free(t, c.images)
	client := c.start(c.upload("--limit", "4MiB")...)
	eventually(t, "some of it has come", func() bool { return free(t, c.images) < before-1<<20 })
	undo = fill(t, c.images)
	r := client.wait()
	r.check(t, 1, []string{"507", "make room there"}, "upload")
	if err := c.checkImages(); err != nil {
		t.Error(err)
	}
	undo()
	c.must(c.upload()...)
	if err := c.arrived(); err != nil {
		t.Error(err)
	}
}
