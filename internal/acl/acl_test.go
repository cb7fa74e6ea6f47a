package acl

import (
	"io/fs"
	"testing"
)

// The masks are law: they stand in the procedure.
func TestMasks(t *testing.T) {
	for name, c := range map[string]struct{ got, want Mask }{
		"Authenticated Users on MED-V Images":    {Images.AuthenticatedUsers, 0x12008d},
		"Authenticated Users on PrestagedImages": {Prestaged.AuthenticatedUsers, 0x120089},
		"SYSTEM on MED-V Images":                 {Images.System, 0x1f01ff},
		"Administrators on PrestagedImages":      {Prestaged.Administrators, 0x1f01ff},
	} {
		if c.got != c.want {
			t.Errorf("%s: %#x, want %#x", name, uint32(c.got), uint32(c.want))
		}
	}
}

func TestPOSIX(t *testing.T) {
	for name, c := range map[string]struct{ got, want fs.FileMode }{
		"folder MED-V Images":    {Images.FolderMode(), 0o755},
		"folder PrestagedImages": {Prestaged.FolderMode(), 0o755},
		"sealed file":            {Prestaged.SealedMode(), 0o444},
		"folder for nobody":      {List{}.FolderMode(), 0o700},
		"file for nobody":        {List{}.SealedMode(), 0o400},
	} {
		if c.got != c.want {
			t.Errorf("%s: %04o, want %04o", name, c.got, c.want)
		}
	}
}
