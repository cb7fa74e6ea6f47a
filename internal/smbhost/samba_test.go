package smbhost

import (
	"fmt"
	"os"
	"testing"

	smb2 "github.com/cloudsoda/go-smb2"

	"prestage/internal/acl"
	"prestage/internal/host/hosttest"
	"prestage/internal/sambatest"
)

// samba is a Windows client, or what stands for one.
type samba struct{ *sambatest.Server }

func startSamba(t *testing.T, options ...string) samba {
	return samba{sambatest.Start(t, options...)}
}

var everyoneDescriptor = acl.Descriptor{HasDACL: true, Entries: []acl.Entry{{Type: acl.Allow, Mask: acl.FullControl, SID: "S-1-1-0"}}}

func (s samba) dial(t *testing.T, user string) *Host {
	t.Helper()
	h, err := Dial(t.Context(), Options{Name: "127.0.0.1", Port: s.Port, User: user, Password: sambatest.Password})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func TestHost(t *testing.T) {
	s := startSamba(t)
	n := 0
	hosttest.Run(t, func(t *testing.T) hosttest.Subject {
		h := s.dial(t, "root")
		n++
		root := fmt.Sprintf(`C:\test%d`, n)
		if err := os.Mkdir(s.Path("c", fmt.Sprintf("test%d", n)), 0o777); err != nil {
			t.Fatal(err)
		}
		return hosttest.Subject{
			Host: h, Root: root,
			Disturb: func(path string) error {
				share, p, err := h.at(path)
				if err != nil {
					return err
				}
				everyone := descriptor(everyoneDescriptor.Bytes())
				if err := share.SetSecurityInfoRaw(p, smb2.DACLSecurityInformation, everyone); err != nil {
					return err
				}
				return share.Chmod(p, 0o666)
			},
			HoldOpen: func(path string) (func(), error) {
				share, p, err := s.dial(t, "root").at(path)
				if err != nil {
					return nil, err
				}
				f, err := share.Open(p)
				return func() { f.Close() }, err
			},
			Busy: true,
		}
	})
}
