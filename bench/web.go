//go:build linux

package main

import (
	"net"
	"net/http"
	"sync/atomic"
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
