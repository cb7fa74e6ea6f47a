package agent

import (
	"bytes"
	"encoding/binary"
	"os"
)

// Of utmp(5): the size of an entry, where its fields are, and the type of those of
// users.
const (
	utmpSize    = 384
	utmpUser    = 44
	utmpUserEnd = utmpUser + 32
	userProcess = 7
)

// workingUser returns who has logged on to the machine first of those who are there,
// "" if nobody is, or it cannot be told.
func workingUser() string {
	b, err := os.ReadFile("/run/utmp")
	if err != nil {
		return ""
	}
	return firstUser(b)
}

func firstUser(utmp []byte) string {
	for ; len(utmp) >= utmpSize; utmp = utmp[utmpSize:] {
		if binary.NativeEndian.Uint16(utmp) == userProcess {
			name, _, _ := bytes.Cut(utmp[utmpUser:utmpUserEnd], []byte{0})
			return string(name)
		}
	}
	return ""
}
