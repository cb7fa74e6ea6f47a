//go:build !linux

package server

import (
	"context"
	"net"
)

// tune sets what all connections have: here, nothing.
func tune(*net.TCPConn) {}

// cork would collect what is sent into full packets.
func cork(context.Context) (uncork func()) { return func() {} }
