package server

import (
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
