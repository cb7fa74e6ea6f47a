package server

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"sync"
)

// reserve is how many connections over the limit are taken to be told so. Those
// beyond are closed without a word.
const reserve = 128

// listener counts connections, in total and for each client.
type listener struct {
	net.Listener
	most, mostEach int     // 0: no limit
	proxies        Proxies // each of whose connections counts as a client

	mu    sync.Mutex
	total int
	each  map[string]int
	over  int // of them, those that are only told that they are too many
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tcp, ok := c.(*net.TCPConn)
		if !ok {
			return c, nil
		}
		tune(tcp)
		if counted := l.count(tcp); counted != nil {
			return counted, nil
		}
		tcp.Close()
	}
}

// count takes a connection, nil if there are too many even to say so.
func (l *listener) count(tcp *net.TCPConn) *conn {
	remote := tcp.RemoteAddr().String()
	c := &conn{TCPConn: tcp, l: l, client: clientOf(remote)}
	if l.proxies.trusts(remote) {
		c.client = remote
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.most > 0 && l.total >= l.most:
		c.refusal = http.StatusServiceUnavailable
	case l.mostEach > 0 && l.each[c.client] >= l.mostEach:
		c.refusal = http.StatusTooManyRequests
	}
	if c.refusal != 0 {
		if l.over >= reserve {
			return nil
		}
		l.over++
		return c
	}
	l.total++
	l.each[c.client]++
	return c
}

// counts returns one of its counters.
func (l *listener) counts(n *int) float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return float64(*n)
}

// conn is a connection that is counted. That it is a TCPConn still is what sends
// files by the system.
type conn struct {
	*net.TCPConn
	l       *listener
	client  string
	refusal int // 0, or the status that all requests are answered with
	once    sync.Once
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.once.Do(func() {
		c.l.mu.Lock()
		defer c.l.mu.Unlock()
		if c.refusal != 0 {
			c.l.over--
			return
		}
		c.l.total--
		if c.l.each[c.client]--; c.l.each[c.client] == 0 {
			delete(c.l.each, c.client)
		}
	})
	return c.TCPConn.Close()
}

// clientOf returns what tells a client from others: its address, of IPv6 the
// network, which one machine has as a whole.
func clientOf(remote string) string {
	ip, ok := addressOf(remote)
	if !ok {
		return remote
	}
	if ip.Is6() {
		if p, err := ip.Prefix(64); err == nil {
			return p.String()
		}
	}
	return ip.String()
}

// addressOf returns the address in what may have a port, too.
func addressOf(remote string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(remote)
	if err != nil {
		with, err := netip.ParseAddrPort(remote)
		if err != nil {
			return a, false
		}
		a = with.Addr()
	}
	return a.Unmap().WithZone(""), true
}

type connKey struct{}

// withConn keeps a request's connection in its context.
func withConn(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	return context.WithValue(ctx, connKey{}, c)
}

// abandon has a request's connection forget what was not sent yet when it is
// closed: the client does not take it.
func abandon(ctx context.Context) {
	if c, ok := ctx.Value(connKey{}).(*conn); ok {
		c.SetLinger(0)
	}
}

// refusalOf returns the status that all requests of a connection get, or 0.
func refusalOf(ctx context.Context) int {
	if c, ok := ctx.Value(connKey{}).(*conn); ok {
		return c.refusal
	}
	return 0
}
