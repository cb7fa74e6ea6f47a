package service

import (
	"fmt"
	"strings"
)

// manners are what the unit of a service says of its own.
type manners struct {
	after        string // what it starts after
	stop         string // how long it may take to end
	capabilities string
	more         string // lines of [Service]
}

var agentManners = manners{
	after: "local-fs.target network.target", stop: "30s", capabilities: "CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER",
}

// serverManners let the server end in its own time, which --drain says.
var serverManners = manners{
	after: "local-fs.target network-online.target\nWants=network-online.target", stop: "5min", capabilities: "CAP_NET_BIND_SERVICE CAP_DAC_READ_SEARCH",
	more: `RemoveIPC=yes
ProtectProc=invisible
`,
}

// Unit returns the text of the systemd unit that runs a command: the program,
// as an absolute path, and its arguments.
//
// Image store, pre-stage folder and packages may be anywhere, in home folders and
// in /tmp too, and may move while the service runs. So those are left as they are
// and writable; what is taken away is what no image needs.
func (s Service) Unit(command []string) (string, error) {
	var quoted []string
	for i, word := range command {
		if strings.ContainsAny(word, "\x00\n\r") || i == 0 && strings.ContainsAny(word, `"'\`) {
			return "", fmt.Errorf("%q cannot stand in a unit of systemd; use another path", word)
		}
		quoted = append(quoted, quote(word, i > 0))
	}
	more := s.unit.more
	if s.yields {
		more += yielding
	}
	return fmt.Sprintf(unit, s.DisplayName, s.unit.after, strings.Join(quoted, " "), s.unit.stop, more, s.unit.capabilities), nil
}

// quote spells a word so that systemd reads it as it is. Variables are not
// looked for in the program's path.
func quote(word string, variables bool) string {
	word = strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`).Replace(word)
	if variables {
		word = strings.ReplaceAll(word, `$`, `$$`)
	}
	if word == "" || strings.ContainsAny(word, " \t'\";\\") {
		word = `"` + word + `"`
	}
	return word
}

// yielding has all others come first, at processors and disks.
const yielding = `Nice=10
IOSchedulingClass=idle
`

const unit = `[Unit]
Description=%s
After=%s

[Service]
Type=notify
ExecStart=%s
Restart=on-failure
RestartSec=5s
TimeoutStopSec=%s
%sUMask=0022

ProtectSystem=full
ReadWritePaths=-/usr/local
NoNewPrivileges=yes
CapabilityBoundingSet=%s
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
`
