//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// load asks a server for ranges of a file, over connections that stay open. It does
// as little as can be for each: what is measured is the server.
type load struct {
	addr, path  string
	file        []byte // what it is; each connection compares its first range
	size        int    // of a range, bytes
	requests    int
	connections int
}

// run makes the requests, at offsets that are the same each time, and returns how
// long that took.
func (l load) run(ctx context.Context) (time.Duration, error) {
	var left atomic.Int64
	left.Store(int64(l.requests))
	g, ctx := errgroup.WithContext(ctx)
	begun := time.Now()
	for i := range l.connections {
		g.Go(func() error { return l.ask(ctx, rand.New(rand.NewPCG(uint64(i), 1)), &left) })
	}
	err := g.Wait()
	return time.Since(begun), err
}

func (l load) ask(ctx context.Context, rng *rand.Rand, left *atomic.Int64) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.addr)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	r := bufio.NewReaderSize(c, 4<<10)
	buf := make([]byte, 256<<10)
	for first := true; left.Add(-1) >= 0; first = false {
		at := rng.IntN((len(l.file)-l.size)/4096) * 4096
		if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: bench\r\nRange: bytes=%d-%d\r\n\r\n", l.path, at, at+l.size-1); err != nil {
			return err
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusPartialContent || resp.ContentLength != int64(l.size) {
			return fmt.Errorf("asked for %d bytes, %s answered %s with %d", l.size, l.addr, resp.Status, resp.ContentLength)
		}
		for n := 0; n < l.size; {
			m, err := readSome(r, c, buf[:min(len(buf), l.size-n)])
			if err != nil {
				return err
			}
			if first && !bytes.Equal(buf[:m], l.file[at+n:at+n+m]) {
				return fmt.Errorf("%s answers with other bytes", l.addr)
			}
			n += m
		}
	}
	return nil
}

// readSome reads what is buffered, or from the connection, past the buffer.
func readSome(r *bufio.Reader, c net.Conn, p []byte) (int, error) {
	if n := r.Buffered(); n > 0 {
		return io.ReadFull(r, p[:min(n, len(p))])
	}
	return c.Read(p)
}

// dawdlers are clients that each ask for a file and take a few bytes of it a second.
// They stay until ctx ends; ready is closed when all have begun to get it.
func dawdlers(ctx context.Context, addr, path string, n int, ready chan<- struct{}) error {
	var begun atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	slots := make(chan struct{}, 64) // that connect at once
	for i := range n {
		g.Go(func() error {
			slots <- struct{}{}
			// A server bounds the connections of an address.
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(i/200), 1)}, Timeout: time.Minute}
			c, err := d.DialContext(ctx, "tcp", addr)
			if err != nil {
				return err
			}
			defer c.Close()
			c.(*net.TCPConn).SetReadBuffer(16 << 10)
			p := make([]byte, 4<<10)
			_, err = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: bench\r\n\r\n", path)
			if err == nil {
				_, err = io.ReadFull(c, p[:12])
			}
			if err == nil && !strings.HasSuffix(string(p[:12]), "200") {
				err = fmt.Errorf("a slow client was answered %q", p[:12])
			}
			<-slots
			if err != nil {
				return err
			}
			if begun.Add(1) == int64(n) {
				close(ready)
			}
			for tick := time.NewTicker(time.Second); ; {
				select {
				case <-ctx.Done():
					return nil
				case <-tick.C:
				}
				if _, err := c.Read(p); err != nil && ctx.Err() == nil {
					return errors.Join(errors.New("a slow client was cut"), err)
				}
			}
		})
	}
	return g.Wait()
}
