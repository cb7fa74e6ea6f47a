package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"prestage/internal/testenv"
)

// before starts a program that stands before a server, by what command returns for
// the address to listen on and a folder of its own, and returns that address.
func before(t *testing.T, command func(address, dir string) []string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address, dir := l.Addr().String(), t.TempDir()
	l.Close()
	words := command(address, dir)
	program, err := testenv.Look(words[0])
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, words[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	t.Cleanup(func() { cmd.Process.Signal(os.Interrupt); <-ended })
	until(t, words[0]+" listens", func() bool {
		select {
		case <-ended:
			t.Fatalf("%s: %s", words[0], &out)
		default:
		}
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return address
}

// nginxBefore starts nginx before a server; location is how it passes requests on.
func nginxBefore(t *testing.T, server, http, location string) string {
	t.Helper()
	testenv.Need(t, "nginx")
	return before(t, func(address, dir string) []string {
		temp := ""
		for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
			temp += fmt.Sprintf("%s_temp_path %s/%s;\n", kind, dir, kind)
		}
		conf := filepath.Join(dir, "nginx.conf")
		if err := os.WriteFile(conf, []byte(fmt.Sprintf(`
daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/error.log;
events { worker_connections 64; }
http {
	access_log off;
	%[2]s
	%[3]s
	server { listen %[4]s; location / { proxy_pass http://%[5]s; %[6]s } }
}`, dir, temp, strings.ReplaceAll(http, "DIR", dir), address, server, location)), 0o600); err != nil {
			t.Fatal(err)
		}
		return []string{"nginx", "-p", dir, "-c", conf, "-e", filepath.Join(dir, "error.log")}
	})
}

// Behind a proxy that is trusted, clients are told apart, whatever they say of
// themselves; and not behind any other.
func TestServeBehindTrusted(t *testing.T) {
	folder, _ := servedPackage(t)
	for _, trusted := range []bool{true, false} {
		log := filepath.Join(t.TempDir(), "access.log")
		args := []string{"prestage", "serve", "--listen", "127.0.0.1:0", "--images", folder, "--access-log", log}
		if trusted {
			args = append(args, "--trusted-proxy", "192.0.2.0/24", "--trusted-proxy", "127.0.0.1")
		}
		url, stop := serving(t, args...)
		server := strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/MEDVImages/")
		proxy := "http://" + nginxBefore(t, server, "", "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;") + "/MEDVImages/"
		curl(t, "--interface", "127.0.0.2", proxy+"catalog.json")
		curl(t, "--interface", "127.0.0.3", proxy+"catalog.json")
		curl(t, "--interface", "127.0.0.4", "--header", "X-Forwarded-For: 127.0.0.2", "--header", "Forwarded: for=127.0.0.2", proxy+"catalog.json")
		curl(t, "--interface", "127.0.0.5", "--header", "X-Forwarded-For: 127.0.0.2", url+"catalog.json") // past it
		stop()
		b, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(string(b)) {
			var l struct{ Remote, Proxy string }
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatal(err)
			}
			host, _, found := strings.Cut(l.Remote, ":")
			if by, _, _ := strings.Cut(l.Proxy, ":"); found == (by == "127.0.0.1") {
				t.Errorf("trusted %v: %s, which %q has said", trusted, l.Remote, l.Proxy)
			}
			got = append(got, host)
		}
		want := "127.0.0.2 127.0.0.3 127.0.0.4 127.0.0.5"
		if !trusted {
			want = "127.0.0.1 127.0.0.1 127.0.0.1 127.0.0.5"
		}
		if strings.Join(got, " ") != want {
			t.Errorf("trusted %v: %v are on record, want %s", trusted, got, want)
		}
	}
}

func varnishBefore(t *testing.T, server string) string {
	t.Helper()
	testenv.Need(t, "varnishd")
	return before(t, func(address, dir string) []string {
		return []string{"varnishd", "-F", "-j", "none", "-a", address, "-b", server, "-n", dir, "-s", "default,64m", "-T", "none"}
	})
}

// Whatever stands between a server and its clients, images come out as they were
// packed, from the cache too; and so do packages that are uploaded through it.
func TestServeBehind(t *testing.T) {
	testenv.NeedTime(t)
	dir := t.TempDir()
	t.Setenv("PRESTAGE_CONFIG", filepath.Join(dir, "prestage.toml"))
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("prestage", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("prestage %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	write := func(path string, b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	image, shop := filepath.Join(dir, "a.img"), filepath.Join(dir, "shop")
	versions := [][]byte{testenv.Random(1, 20<<20)}
	versions = append(versions, bytes.Clone(versions[0]))
	copy(versions[1][5<<20:], testenv.Random(2, 3<<20))
	for _, b := range versions {
		write(image, b)
		run("pack", image, "--name", "win11", "--images", shop)
	}
	tokens, rights := filepath.Join(dir, "tokens"), filepath.Join(dir, "rights.toml")
	write(rights, []byte("[[allow]]\nimages = ['*']\nreaders = ['anyone']\nwriters = ['*']\n"))
	token := strings.TrimSpace(run("serve", "token", "build", "--tokens", tokens))

	for name, start := range map[string]func(t *testing.T, server string) string{
		"nginx": func(t *testing.T, server string) string { return nginxBefore(t, server, "", "") }, // it speaks HTTP/1.0 to the server
		"nginx, which caches in slices": func(t *testing.T, server string) string {
			return nginxBefore(t, server, "proxy_cache_path DIR/cache keys_zone=c:1m;",
				"slice 1m; proxy_cache c; proxy_cache_key $uri$slice_range; proxy_set_header Range $slice_range; proxy_http_version 1.1; proxy_cache_valid 200 206 1h;")
		},
		"nginx, which caches whole files": func(t *testing.T, server string) string {
			return nginxBefore(t, server, "proxy_cache_path DIR/cache keys_zone=c:1m;", "proxy_cache c; proxy_http_version 1.1;")
		},
		"nginx, which drops ranges": func(t *testing.T, server string) string {
			return nginxBefore(t, server, "", `proxy_set_header Range ""; max_ranges 0; proxy_hide_header Accept-Ranges;`)
		},
		"Varnish": varnishBefore,
	} {
		t.Run(name, func(t *testing.T) {
			images := filepath.Join(t.TempDir(), "images")
			if err := os.Mkdir(images, 0o755); err != nil {
				t.Fatal(err)
			}
			url, _ := serving(t, "prestage", "serve", "--listen", "127.0.0.1:0", "--images", images, "--tokens", tokens, "--rights", rights)
			server := strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/MEDVImages/")
			proxy := "http://" + start(t, server) + "/MEDVImages/"
			upload := func(to string, version int) {
				t.Helper()
				cmd := exec.Command("prestage", "upload", fmt.Sprintf("win11:%d", version), "--images", shop, "--to", to)
				cmd.Env = append(os.Environ(), "PRESTAGE_TOKEN="+token)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("uploading: %v\n%s", err, out)
				}
			}
			if strings.Contains(name, "caches") || strings.Contains(name, "ranges") { // what is there for reading is not for writing
				upload(url, 1)
			} else {
				upload(proxy, 1)
			}
			for i := range 2 { // the second time from the cache, if there is one
				store := filepath.Join(t.TempDir(), "store")
				run("install", "win11:1", "--images", proxy, "--store", store)
				if got, _ := os.ReadFile(filepath.Join(store, "win11", "1", "a.img")); !bytes.Equal(got, versions[0]) {
					t.Errorf("install %d: other bytes", i)
				}
				if i == 0 {
					upload(url, 2)
				}
				run("update", "win11", "--images", url, "--store", store, "--dry-run")
				// A catalog may be kept for some seconds: name the version.
				run("install", "win11:2", "--images", proxy, "--store", store)
				if got, _ := os.ReadFile(filepath.Join(store, "win11", "2", "a.img")); !bytes.Equal(got, versions[1]) {
					t.Errorf("update %d: other bytes", i)
				}
			}
		})
	}
}
