package prestage

import (
	"encoding/json"
	"path/filepath"
	"reflect"
	"testing"

	"prestage/internal/localhost"
	"prestage/internal/settings"
)

func TestLocate(t *testing.T) {
	h := localhost.New(settings.File("unused"))
	for folder, want := range map[string]string{
		"/data":                               "/data/MED-V Images",
		"/":                                   "/MED-V Images",
		"/data/MED-V Images":                  "/data/MED-V Images",
		"/data/MED-V Images/":                 "/data/MED-V Images",
		"/images":                             "/images/MED-V Images",
		"/data/MEDV Images":                   "",
		"/data/MED-V images":                  "",
		"/data/med-v_images":                  "",
		"/data/MEDVImages":                    "",
		"/data/MED-V Image":                   "",
		"/data/MED-V Images/PrestagedImages":  "",
		"/data/MED-V Images/PrestagedImages/": "",
	} {
		f, err := locate(h, folder)
		if want == "" {
			if err == nil {
				t.Errorf("%q was taken for %q", folder, f.images)
			}
			continue
		}
		if err != nil || f.images != want || f.staged != filepath.Join(want, "PrestagedImages") {
			t.Errorf("%q: %q, %q, %v", folder, f.images, f.staged, err)
		}
	}
}

// FuzzParseReceipt: what is accepted says the same when it is written again.
func FuzzParseReceipt(f *testing.F) {
	f.Add([]byte(`{"name":"win11","version":1,"package_digest":"00","verified":"2026-05-01T12:00:00Z","how":"readback",
		"ckm":{"size":1,"modified":"2026-05-01T12:00:00.123Z"},"index":{"size":2,"modified":"2026-05-01T12:00:00Z"}}`))
	f.Add([]byte(`{"name":"../x","version":1}`))
	f.Add([]byte(`{"name":"x","version":0}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, p []byte) {
		r, err := ParseReceipt(p)
		if err != nil {
			return
		}
		b, err := json.Marshal(r)
		if err != nil {
			return // a year that JSON cannot write
		}
		again, err := ParseReceipt(b)
		if err != nil || !again.Verified.Equal(r.Verified) {
			t.Fatalf("%s: %v", b, err)
		}
		again.Verified, again.CKM.Modified, again.Index.Modified = r.Verified, r.CKM.Modified, r.Index.Modified
		if !reflect.DeepEqual(r, again) {
			t.Fatalf("%+v became %+v", r, again)
		}
	})
}

// A name is shown as it is, unless it does something to a terminal.
func TestShown(t *testing.T) {
	for name, want := range map[string]string{"a b_1.ckm": "a b_1.ckm", "größe": "größe", "\x1b[2J": `"\x1b[2J"`, "a\nb": `"a\nb"`, "\u202e": `"\u202e"`} {
		if got := shown(name); got != want {
			t.Errorf("%q became %s", name, got)
		}
	}
}
