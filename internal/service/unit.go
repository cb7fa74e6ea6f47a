package service

import (
	"fmt"
	"strings"
)

// Unit returns the text of the systemd unit that runs a command: the program,
// as an absolute path, and its arguments.
//
// Image store and pre-stage folder may be anywhere, in home folders and in
// /tmp too, and may move while the service runs. So those are left as they are
// and writable; what is taken away is what no image needs.
func Unit(command []string) (string, error) {
	var quoted []string
	for i, word := range command {
		if strings.ContainsAny(word, "\x00\n\r") || i == 0 && strings.ContainsAny(word, `"'\`) {
			return "", fmt.Errorf("%q cannot stand in a unit of systemd; use another path", word)
		}
		quoted = append(quoted, quote(word, i > 0))
	}
	return fmt.Sprintf(unit, strings.Join(quoted, " ")), nil
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

const unit = `[Unit]
Description=` + DisplayName + `
After=local-fs.target network.target

[Service]
Type=notify
ExecStart=%s
Restart=on-failure
RestartSec=5s
TimeoutStopSec=30s
# It works while people do: they come first.
Nice=10
IOSchedulingClass=idle
UMask=0022

ProtectSystem=full
ReadWritePaths=-/usr/local
NoNewPrivileges=yes
CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER
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
