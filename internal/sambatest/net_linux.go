package sambatest

import (
	"errors"
	"os"
	"testing"

	"prestage/internal/nettest"
)

// Client is a Samba server that stands for a Windows client with an address of its
// own.
type Client struct {
	*nettest.Machine
	Server *Server
}

// Add adds a machine with such a server to a network. Nothing runs on it before
// Run. Options are lines for the server's configuration.
func Add(t testing.TB, n *nettest.Net, name string, options ...string) *Client {
	t.Helper()
	need(t)
	m := n.Add(t, name)
	c := &Client{m, &Server{Dir: m.Home, Port: "445"}}
	// A connection that was cut is given up soon, and so what it held open.
	options = append(options, "socket options = TCP_NODELAY SO_KEEPALIVE TCP_KEEPCNT=3 TCP_KEEPIDLE=5 TCP_KEEPINTVL=5 TCP_USER_TIMEOUT=20000")
	c.Server.setUp(t, options...)
	return c
}

// Run starts the server, also again after Halt. Env goes before its command, as in
// NAME=VALUE.
func (c *Client) Run(t testing.TB, env ...string) {
	t.Helper()
	for _, dir := range []string{"lock", "pid", "ncalrpc"} { // what a machine that starts has not
		if err := errors.Join(os.RemoveAll(c.Path(dir)), os.Mkdir(c.Path(dir), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	c.Serve(t, c.Server.Port, append(append([]string{"env"}, env...), append([]string{"smbd"}, c.Server.args()...)...)...)
}

// Registry changes the registry of the machine, on it: args are those of net
// registry.
func (c *Client) Registry(t testing.TB, args ...string) {
	t.Helper()
	c.Server.run(t, "", append([]string{"net", "-s", c.Server.Path("smb.conf"), "registry"}, args...)...)
}
