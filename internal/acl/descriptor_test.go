package acl

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// The words of the procedure (rows S3 and S4 of the contract), letter by letter.
func TestS3S4Descriptors(t *testing.T) {
	for got, want := range map[string]string{
		Images.SDDL():           "D:P(A;OICI;0x12008d;;;AU)(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)",
		Prestaged.SDDL():        "D:P(A;OICI;0x120089;;;AU)(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)",
		StrictImages.SDDL():     "D:P(A;OICI;0x120089;;;AU)(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)",
		Prestaged.File().SDDL(): "D:P(A;;0x120089;;;AU)(A;;FA;;;SY)(A;;FA;;;BA)",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// "O:BAD:P(A;OICI;0x12008d;;;AU)(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)" laid out by
// hand after MS-DTYP 2.4.6: header, owner, DACL.
const imagesBytes = "01000490" + "14000000" + "00000000" + "00000000" + "24000000" +
	"01020000000000052000000020020000" +
	"0200" + "4800" + "0300" + "0000" +
	"00031400" + "8d001200" + "01010000000000050b000000" +
	"00031400" + "ff011f00" + "010100000000000512000000" +
	"00031800" + "ff011f00" + "01020000000000052000000020020000"

func TestBytes(t *testing.T) {
	want, err := hex.DecodeString(imagesBytes)
	if err != nil {
		t.Fatal(err)
	}
	if got := Images.Folder().Bytes(); !bytes.Equal(got, want) {
		t.Errorf("encoded %x, want %x", got, want)
	}
	d, err := Parse(want)
	if err != nil || !reflect.DeepEqual(d, Images.Folder()) {
		t.Errorf("parsed %+v, %v", d, err)
	}
}

func TestParseRefuses(t *testing.T) {
	good := Images.Folder().Bytes()
	for name, change := range map[string]func(b []byte) []byte{
		"nothing":        func([]byte) []byte { return nil },
		"short":          func(b []byte) []byte { return b[:19] },
		"revision":       func(b []byte) []byte { b[0] = 2; return b },
		"absolute":       func(b []byte) []byte { b[3] &^= 0x80; return b },
		"owner outside":  func(b []byte) []byte { b[4] = 0xf0; return b },
		"DACL outside":   func(b []byte) []byte { b[16] = 0xf0; return b },
		"DACL cut":       func(b []byte) []byte { return b[:len(b)-1] },
		"entries":        func(b []byte) []byte { b[40] = 4; return b },
		"entry's size":   func(b []byte) []byte { b[46] = 0xff; return b },
		"SID's length":   func(b []byte) []byte { b[53] = 16; return b },
		"SID's revision": func(b []byte) []byte { b[52] = 2; return b },
	} {
		if _, err := Parse(change(bytes.Clone(good))); !errors.Is(err, ErrDescriptor) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestDeviations(t *testing.T) {
	for name, c := range map[string]struct {
		change func(d *Descriptor)
		want   []string
	}{
		"none":            {func(*Descriptor) {}, nil},
		"order":           {func(d *Descriptor) { d.Entries[0], d.Entries[2] = d.Entries[2], d.Entries[0] }, nil},
		"SYSTEM owns it":  {func(d *Descriptor) { d.Owner = System }, nil},
		"generic all":     {func(d *Descriptor) { d.Entries[1].Mask = 0x10000000 }, nil},
		"owner":           {func(d *Descriptor) { d.Owner = "S-1-5-21-1-2-3-1001" }, []string{"it belongs to S-1-5-21-1-2-3-1001 and should belong to Administrators"}},
		"no DACL":         {func(d *Descriptor) { d.HasDACL, d.Entries = false, nil }, []string{"no DACL"}},
		"not protected":   {func(d *Descriptor) { d.Protected = false }, []string{"not protected"}},
		"mask":            {func(d *Descriptor) { d.Entries[0].Mask = 0x1301bf }, []string{"allows Authenticated Users 0x1301bf (modify) and should allow 0x12008d (read and append)"}},
		"missing":         {func(d *Descriptor) { d.Entries = d.Entries[:2] }, []string{"no entry for Administrators"}},
		"extra":           {func(d *Descriptor) { d.Entries = append(d.Entries, Entry{Allow, 3, FullControl, "S-1-1-0"}) }, []string{"allows Everyone 0x1f01ff (full control) and should not name them"}},
		"denied":          {func(d *Descriptor) { d.Entries = append(d.Entries, Entry{Deny, 3, 1, "S-1-5-32-545"}) }, []string{"denies Users 0x1"}},
		"twice":           {func(d *Descriptor) { d.Entries = append(d.Entries, d.Entries[0]) }, []string{"allows Authenticated Users"}},
		"not for files":   {func(d *Descriptor) { d.Entries[0].Flags = 2 }, []string{"is for folders below and should be for files below, for folders below"}},
		"inherited":       {func(d *Descriptor) { d.Entries[0].Flags |= 0x10 }, []string{"inherited"}},
		"unknown type":    {func(d *Descriptor) { d.Entries = append(d.Entries, Entry{Type: 9}) }, []string{"type 9"}},
		"wrong and extra": {func(d *Descriptor) { d.Entries[0].Mask = 1; d.Owner = "S-1-1-0" }, []string{"Everyone", "0x1 and"}},
	} {
		d := Images.Folder()
		c.change(&d)
		got := Images.Folder().Deviations(d)
		if len(got) != len(c.want) {
			t.Errorf("%s: %q", name, got)
			continue
		}
		for i, w := range c.want {
			if !strings.Contains(got[i], w) {
				t.Errorf("%s: %q, want %q", name, got[i], w)
			}
		}
	}
}

// A DACL may have thousands of entries.
func TestManyDeviations(t *testing.T) {
	d := Images.Folder()
	for range 5000 {
		d.Entries = append(d.Entries, Entry{Allow, 3, FullControl, "S-1-1-0"})
	}
	if got := Images.Folder().Deviations(d); len(got) != maxDeviations+1 || !strings.Contains(got[maxDeviations], "4984 more") {
		t.Errorf("%d deviations, the last is %q", len(got), got[len(got)-1])
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Images.Folder().Bytes())
	f.Add(Prestaged.File().Bytes())
	f.Add(Descriptor{Owner: "S-1-0x123456789abc-1"}.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := Parse(b)
		if err != nil {
			return
		}
		for _, e := range d.Entries {
			if e.Type != Allow && e.Type != Deny {
				return // their rest is not kept
			}
		}
		again, err := Parse(d.Bytes())
		if err != nil || !reflect.DeepEqual(again, d) {
			t.Errorf("%+v became %+v, %v", d, again, err)
		}
	})
}
