//go:build !linux

package server

import "net"

// tune sets what all connections have: here, nothing.
func tune(*net.TCPConn) {}
