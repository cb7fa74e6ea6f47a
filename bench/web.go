//go:build linux

package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// webServer serves a folder on this machine, and counts what it is asked for.
type webServer struct {
	http.Server
	url             string
	requests, bytes atomic.Int64
}

func newWebServer(dir string) (*webServer, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &webServer{url: "http://" + l.Addr().String() + "/"}
	files := http.FileServer(http.Dir(dir))
	w.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.requests.Add(1)
		files.ServeHTTP(&countingWriter{rw, &w.bytes}, r)
	})
	go w.Serve(l)
	return w, nil
}

// nginx is a server of a folder that records how many bytes it sends.
type nginx struct {
	url  string
	stop func() (sent int64, err error) // ends it
}

func (b *bench) nginx(program, dir string) (*nginx, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := l.Addr().String()
	l.Close()
	conf, log := filepath.Join(dir, "nginx.conf"), filepath.Join(dir, "sent")
	text := fmt.Sprintf("daemon off;\npid %[1]s/nginx.pid;\nerror_log stderr;\nevents {}\nhttp {\n"+
		"log_format sent $body_bytes_sent;\naccess_log %[2]s sent;\nclient_body_temp_path %[1]s/t;\nproxy_temp_path %[1]s/t;\nfastcgi_temp_path %[1]s/t;\n"+
		"uwsgi_temp_path %[1]s/t;\nscgi_temp_path %[1]s/t;\nserver { listen %[3]s; root %[1]s; }\n}\n", dir, log, address)
	if os.Geteuid() == 0 {
		text = "user root;\n" + text // the folder is nobody else's
	}
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return nil, err
	}
	cmd := exec.Command(program, "-p", dir, "-c", conf)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	for range 100 {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	return &nginx{"http://" + address + "/", func() (sent int64, err error) {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
		text, err := os.ReadFile(log)
		for line := range strings.Lines(string(text)) {
			n, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
			if err != nil {
				return 0, err
			}
			sent += n
		}
		return sent, err
	}}, nil
}

// countingWriter counts the bytes of bodies.
type countingWriter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.n.Add(int64(n))
	return n, err
}
