package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"prestage/internal/acl"
	"prestage/internal/sambatest"
)

const staged = `MED-V Images\PrestagedImages`

// smbclient runs Samba's client as a user, from the administrator's end.
func (o *office) smbclient(c *sambatest.Client, user, command string) (out string, err error) {
	share := map[string]string{sambatest.Administrator: "c$", sambatest.Ordinary: "Users"}[user]
	b, err := o.Command("smbclient", "-s", c.Path("smb.conf"), "-U", user+"%"+sambatest.Password, "//"+c.Address+"/"+share, "-c", command).CombinedOutput()
	return string(b), err
}

// checkClient has Samba's own tools say, over the network, whether a machine is as
// the procedure wants it, with a package that is in the repository.
func (o *office) checkClient(t *testing.T, c *sambatest.Client, name, key string) {
	t.Helper()
	files := []string{name + "_1.ckm", name + "_1.index"}
	want := map[string]acl.Descriptor{`MED-V Images`: acl.Images.Folder(), staged: acl.Prestaged.Folder()}
	for _, file := range files {
		want[staged+`\`+file] = acl.Prestaged.File()
		if out, err := o.smbclient(c, sambatest.Administrator, `allinfo "`+staged+`\`+file+`"`); err != nil || !strings.Contains(out, "attributes: R") {
			t.Errorf("%s: %s is not read-only: %v\n%s", c.Name, file, err, out)
		}
		copied := filepath.Join(t.TempDir(), file)
		if out, err := o.smbclient(c, sambatest.Ordinary, `get "`+staged+`\`+file+`" "`+copied+`"`); err != nil {
			t.Errorf("%s: an ordinary user cannot read %s: %v\n%s", c.Name, file, err, out)
		}
		sameFile(t, filepath.Join(o.repo, file), copied)
	}
	for path, d := range want {
		b, err := o.Command("smbcacls", "-s", c.Path("smb.conf"), "-U", sambatest.Administrator+"%"+sambatest.Password, "--sddl", "//"+c.Address+"/c$", path).CombinedOutput()
		if err != nil {
			t.Errorf("smbcacls: %v\n%s", err, b)
			continue
		}
		if got, err := parseSDDL(string(b)); err != nil || got.Owner != d.Owner || got.Protected != d.Protected || !slices.Equal(got.Entries, d.Entries) {
			t.Errorf("%s: the rights of %s are %+v, want %+v (%v)\n%s", c.Name, path, got, d, err, b)
		}
	}
	b, err := o.Command("net", "-s", c.Path("smb.conf"), "rpc", "registry", "getvalue", key, "PrestagedImagesPath", "-S", c.Address,
		"-U", sambatest.Administrator+"%"+sambatest.Password).CombinedOutput()
	if err != nil || !strings.Contains(string(b), `C:\`+staged) {
		t.Errorf("%s: the registry says %v, %s", c.Name, err, b)
	}
}

// checkRefused tries all that an ordinary user must not do.
func (o *office) checkRefused(t *testing.T, c *sambatest.Client, name string) {
	t.Helper()
	file := `"` + staged + `\` + name + `_1.ckm"`
	mine := filepath.Join(o.work, "mine")
	if err := os.WriteFile(mine, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	for what, command := range map[string]string{
		"create":         `put ` + mine + ` "` + staged + `\mine"`,
		"replace":        `put ` + mine + ` ` + file,
		"append":         `reput ` + mine + ` ` + file,
		"delete":         `del ` + file,
		"rename":         `rename ` + file + ` "` + staged + `\mine"`,
		"move away":      `rename ` + file + ` "MED-V Images\mine"`,
		"make a folder":  `mkdir "` + staged + `\mine"`,
		"remove":         `rmdir "` + staged + `"`,
		"set attributes": `setmode ` + file + ` -r`,
		"rename all":     `rename "MED-V Images" mine`,
	} {
		out, err := o.smbclient(c, sambatest.Ordinary, command)
		if !strings.Contains(out, "NT_STATUS_") || strings.Contains(out, "NT_STATUS_LOGON") || strings.Contains(out, "BAD_NETWORK_NAME") {
			t.Errorf("%s: an ordinary user may %s: %v\n%s", c.Name, what, err, out)
		}
	}
	out, err := o.Command("smbcacls", "-s", c.Path("smb.conf"), "-U", sambatest.Ordinary+"%"+sambatest.Password, "//"+c.Address+"/Users", staged,
		"-a", "ACL:"+sambatest.Ordinary+":ALLOWED/0x0/FULL").CombinedOutput()
	if err == nil {
		t.Errorf("%s: an ordinary user may change the rights\n%s", c.Name, out)
	}
}

// parseSDDL reads the security descriptor definition language (MS-DTYP 2.5.1) as
// far as smbcacls writes it for what the procedure makes.
func parseSDDL(s string) (d acl.Descriptor, err error) {
	sid := func(s string) acl.SID {
		if long, ok := map[string]acl.SID{"AU": acl.AuthenticatedUsers, "SY": acl.System, "BA": acl.Administrators}[s]; ok {
			return long
		}
		return acl.SID(s)
	}
	s = strings.TrimSpace(s)
	s = s[strings.LastIndexByte(s, '\n')+1:] // warnings stand before it
	rest, list, ok := strings.Cut(s, "D:")
	if !ok {
		return d, fmt.Errorf("no DACL in %q", s)
	}
	if owner, ok := strings.CutPrefix(rest, "O:"); ok {
		owner, _, _ = strings.Cut(owner, "G:")
		d.Owner = sid(owner)
	}
	d.HasDACL = true
	control, list, _ := strings.Cut(list, "(")
	d.Protected = strings.Contains(control, "P")
	for entry := range strings.SplitSeq(strings.TrimSuffix(list, ")"), ")(") {
		f := strings.Split(entry, ";")
		if len(f) != 6 {
			return d, fmt.Errorf("%q is no entry", entry)
		}
		e := acl.Entry{Type: map[string]byte{"A": acl.Allow, "D": acl.Deny}[f[0]], SID: sid(f[5])}
		for i := 0; i+1 < len(f[1]); i += 2 {
			e.Flags |= map[string]byte{"OI": 1, "CI": 2, "NP": 4, "IO": 8, "ID": 16}[f[1][i:i+2]]
		}
		mask, known := map[string]acl.Mask{"FA": acl.FullControl, "FR": 0x120089}[f[2]]
		if !known {
			n, err := strconv.ParseUint(f[2], 0, 32)
			if err != nil {
				return d, err
			}
			mask = acl.Mask(n)
		}
		e.Mask = mask
		d.Entries = append(d.Entries, e)
	}
	return d, nil
}
