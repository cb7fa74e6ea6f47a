// Package nettest is a network of machines for tests, on Linux: each has a
// network namespace, an address and ports of its own, and a link that can be cut.
// The package also starts SSH servers on them; package sambatest starts Samba.
package nettest
