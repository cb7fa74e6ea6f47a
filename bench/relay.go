//go:build linux

package main

import (
	"io"
	"net"
	"os"
	"time"
)

// relayVerb, as the first argument, makes this program a relay:
//
//	bench relay LISTEN TARGET DELAY
const relayVerb = "relay"

// relay passes on what comes in over TCP, each way after a delay. It is a long
// line that is never full: not every kernel can delay packets, and what is
// measured over it are answers that are waited for.
func relay(args []string) error {
	delay, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	for {
		near, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer near.Close()
			far, err := net.Dial("tcp", args[1])
			if err != nil {
				return
			}
			defer far.Close()
			go delayed(near, far, delay)
			delayed(far, near, delay)
		}()
	}
}

// delayed copies bytes, each after a delay.
func delayed(to io.WriteCloser, from io.Reader, delay time.Duration) {
	type part struct {
		bytes []byte
		due   time.Time
	}
	parts := make(chan part, 4096)
	go func() {
		defer close(parts)
		for {
			p := make([]byte, 64<<10)
			n, err := from.Read(p)
			if n > 0 {
				parts <- part{p[:n], time.Now().Add(delay)}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range parts {
		time.Sleep(time.Until(p.due))
		if _, err := to.Write(p.bytes); err != nil {
			break
		}
	}
	to.Close()
	for range parts { // nobody wants the rest
	}
}

// self is this program, to be started as something else.
func self() string {
	path, err := os.Executable()
	if err != nil {
		return "/proc/self/exe"
	}
	return path
}
