package server

import (
	"context"
	"net"

	"golang.org/x/sys/unix"
)

// unsent is how many bytes the system keeps for a connection that it has not sent
// yet. Without a bound these grow to MiBs, which a client that takes nothing holds,
// and behind which nobody sees for minutes that it takes nothing.
const unsent = 512 << 10

// tune sets what all connections have.
func tune(c *net.TCPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return // it is closed
	}
	raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsent) })
}

// cork has the system collect what is sent on a request's connection into full
// packets, until the function that it returns is called: else the header of an answer
// is a packet of its own, and the client is woken for it.
func cork(ctx context.Context) (uncork func()) {
	c, ok := ctx.Value(connKey{}).(*conn)
	if !ok {
		return func() {}
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return func() {} // it is closed
	}
	set := func(on int) {
		raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_CORK, on) })
	}
	set(1)
	return func() { set(0) }
}
