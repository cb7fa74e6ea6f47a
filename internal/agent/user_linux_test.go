package agent

import (
	"bytes"
	"os/exec"
	"testing"

	"prestage/internal/testenv"
)

// What the system's own program writes and reads is read.
func TestFirstUser(t *testing.T) {
	testenv.Need(t, "utmpdump")
	// Type, process, ID, user, line, host, address, time.
	const text = `[2] [00000] [~~  ] [reboot  ] [~           ] [6.1.0               ] [0.0.0.0        ] [2026-11-28T10:00:00,000000+00:00]
[7] [00812] [tty1] [alice   ] [tty1        ] [                    ] [0.0.0.0        ] [2026-11-28T10:01:00,000000+00:00]
[7] [00911] [ts/0] [bob     ] [pts/0       ] [10.0.0.7            ] [10.0.0.7       ] [2026-11-28T10:02:00,000000+00:00]
`
	cmd := exec.Command("utmpdump", "--reverse")
	cmd.Stdin = bytes.NewReader([]byte(text))
	utmp, err := cmd.Output()
	if err != nil || len(utmp) != 3*utmpSize {
		t.Fatalf("%d bytes: %v", len(utmp), err)
	}
	if got := firstUser(utmp); got != "alice" {
		t.Errorf("%q works here", got)
	}
	for n := range utmp {
		firstUser(utmp[:n])
	}
}
