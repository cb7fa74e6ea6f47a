package repo

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"prestage/ckm"
)

// goodEntry is an entry as a catalog has it, with fields replaced or, by nil,
// left out.
func goodEntry(name string, version any, change map[string]any) map[string]any {
	e := map[string]any{"name": name, "version": version, "created": "2026-05-01T12:00:00Z", "file_size": 1000, "image_size": 2000,
		"package_digest": strings.Repeat("0a", 32), "index": fmt.Sprintf("%s_%v.index", name, version), "index_size": 300, "ckm": fmt.Sprintf("%s_%v.ckm", name, version)}
	for k, v := range change {
		if v == nil {
			delete(e, k)
		} else {
			e[k] = v
		}
	}
	return e
}

func catalogOf(t testing.TB, top map[string]any, entries ...any) []byte {
	c := map[string]any{"format": 1, "images": entries}
	for k, v := range top {
		c[k] = v
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A catalog comes from a server: whatever it says, it can lead to no other
// files than those of the packages that it names.
func TestParseCatalog(t *testing.T) {
	one := func(change map[string]any) []byte { return catalogOf(t, nil, goodEntry("win", 3, change)) }
	for _, c := range []struct {
		name string
		p    []byte
		is   error // nil: good
	}{
		{"empty", catalogOf(t, nil), nil},
		{"null for a list", []byte(`{"format":1,"images":null}`), nil},
		{"no list", []byte(`{"format":1}`), nil},
		{"one", one(nil), nil},
		{"unknown fields", catalogOf(t, map[string]any{"x": []int{1}}, goodEntry("win", 3, map[string]any{"y": "z"})), nil},
		{"two versions and two names", catalogOf(t, nil, goodEntry("a", 1, nil), goodEntry("a", 2, nil), goodEntry("b", 1, nil)), nil},
		{"versions in order of numbers", catalogOf(t, nil, goodEntry("a", 9, nil), goodEntry("a", 10, nil)), nil},
		{"the highest version", catalogOf(t, nil, goodEntry("a", math.MaxInt32, nil)), nil},
		{"another script", catalogOf(t, nil, goodEntry("größe", 1, nil)), nil},
		{"last versions", catalogOf(t, map[string]any{"last_versions": map[string]any{"a": 7, "b": math.MaxInt32}}), nil},

		{"nothing", nil, ckm.ErrFormat},
		{"HTML", []byte("<html>"), ckm.ErrFormat},
		{"a list", []byte("[]"), ckm.ErrFormat},
		{"null", []byte("null"), ckm.ErrUnsupported},
		{"cut short", one(nil)[:100], ckm.ErrFormat},
		{"something behind", append(one(nil), '{'), ckm.ErrFormat},
		{"another format", catalogOf(t, map[string]any{"format": 2}), ckm.ErrUnsupported},
		{"no format", []byte(`{"images":[]}`), ckm.ErrUnsupported},
		{"a format that is no number", catalogOf(t, map[string]any{"format": "1"}), ckm.ErrFormat},
		{"too large", append(one(nil), make([]byte, maxCatalog)...), ckm.ErrFormat},
		{"too deep", []byte(`{"x":` + strings.Repeat("[", 1<<20)), ckm.ErrFormat},
		{"version 0", catalogOf(t, nil, goodEntry("win", 0, nil)), ckm.ErrFormat},
		{"a negative version", catalogOf(t, nil, goodEntry("win", -1, nil)), ckm.ErrFormat},
		{"a version over the limit", catalogOf(t, nil, goodEntry("win", 1<<31, nil)), ckm.ErrFormat},
		{"a version of 33 bits", catalogOf(t, nil, goodEntry("win", 1<<32+1, nil)), ckm.ErrFormat},
		{"a version with a fraction", catalogOf(t, nil, goodEntry("win", 1.5, nil)), ckm.ErrFormat},
		{"no name", one(map[string]any{"name": nil}), ckm.ErrFormat},
		{"an empty name", catalogOf(t, nil, goodEntry("", 1, nil)), ckm.ErrFormat},
		{"a path for a name", catalogOf(t, nil, goodEntry("../win", 1, nil)), ckm.ErrFormat},
		{"a Windows path for a name", catalogOf(t, nil, goodEntry(`..\win`, 1, nil)), ckm.ErrFormat},
		{"a device for a name", catalogOf(t, nil, goodEntry("NUL", 1, nil)), ckm.ErrFormat},
		{"a name with a NUL", catalogOf(t, nil, goodEntry("a\x00b", 1, nil)), ckm.ErrFormat},
		{"another INDEX", one(map[string]any{"index": "other_3.index"}), ckm.ErrFormat},
		{"an INDEX elsewhere", one(map[string]any{"index": "../win_3.index"}), ckm.ErrFormat},
		{"no INDEX", one(map[string]any{"index": nil}), ckm.ErrFormat},
		{"another CKM", one(map[string]any{"ckm": "win_2.ckm"}), ckm.ErrFormat},
		{"a CKM elsewhere", one(map[string]any{"ckm": "http://evil.example/win_3.ckm"}), ckm.ErrFormat},
		{"zeros before the version", one(map[string]any{"index": "win_03.index", "ckm": "win_03.ckm"}), ckm.ErrFormat},
		{"a short digest", one(map[string]any{"package_digest": "0a0b"}), ckm.ErrFormat},
		{"a digest that is none", one(map[string]any{"package_digest": strings.Repeat("xx", 32)}), ckm.ErrFormat},
		{"no digest", one(map[string]any{"package_digest": nil}), ckm.ErrFormat},
		{"an INDEX over the limit", one(map[string]any{"index_size": ckm.MaxIndexSize + 1}), ckm.ErrFormat},
		{"an image over the limit", one(map[string]any{"image_size": uint64(math.MaxUint64)}), ckm.ErrFormat},
		{"a CKM over the limit", one(map[string]any{"file_size": uint64(1)<<62 + 1}), ckm.ErrFormat},
		{"a negative size", one(map[string]any{"file_size": -1}), ckm.ErrFormat},
		{"a time that is none", one(map[string]any{"created": "yesterday"}), ckm.ErrFormat},
		{"out of order", catalogOf(t, nil, goodEntry("b", 1, nil), goodEntry("a", 1, nil)), ckm.ErrFormat},
		{"versions out of order", catalogOf(t, nil, goodEntry("a", 10, nil), goodEntry("a", 9, nil)), ckm.ErrFormat},
		{"the same twice", catalogOf(t, nil, goodEntry("a", 1, nil), goodEntry("a", 1, nil)), ckm.ErrFormat},
		{"last version over the limit", catalogOf(t, map[string]any{"last_versions": map[string]any{"a": uint32(math.MaxUint32)}}), ckm.ErrFormat},
		{"last version of no name", catalogOf(t, map[string]any{"last_versions": map[string]any{"../a": 1}}), ckm.ErrFormat},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseCatalog(c.p)
			if c.is != nil {
				if !errors.Is(err, c.is) || got != nil {
					t.Errorf("got %v, %v", got, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			checkCatalog(t, got)
		})
	}
}

// checkCatalog checks what users of a catalog rely on.
func checkCatalog(t *testing.T, c *Catalog) {
	t.Helper()
	for i, e := range c.Images {
		for _, f := range []struct{ file, ext string }{{e.Index, ckm.IndexExt}, {e.CKM, ckm.DataExt}} {
			if name, version, ext, ok := ckm.ParseFileName(f.file); !ok || name != e.Name || version != e.Version || ext != f.ext {
				t.Errorf("the entry of %s leads to %q", ImageName(e.Name, e.Version), f.file)
			}
		}
		if i > 0 && compareEntries(c.Images[i-1], e) >= 0 {
			t.Errorf("entry %d is not after the one before it", i)
		}
	}
	again, err := ParseCatalog(c.Encode())
	if err != nil {
		t.Fatalf("written and read again: %v", err)
	}
	if len(again.Images) != len(c.Images) || len(again.LastVersions) != len(c.LastVersions) {
		t.Fatal("written and read again it is another one")
	}
	for i := range c.Images {
		a, b := c.Images[i], again.Images[i]
		same := a.Created.Equal(b.Created)
		a.Created, b.Created = time.Time{}, time.Time{}
		if !same || !reflect.DeepEqual(a, b) {
			t.Errorf("written and read again, entry %d is another one", i)
		}
	}
}

// Programs that are not ours read it as well: a list is one when it is empty.
func TestEmptyCatalog(t *testing.T) {
	if s := string((&Catalog{Format: 1}).Encode()); !strings.Contains(s, `"images": []`) {
		t.Errorf("got %s", s)
	}
}

// The format lets a package be made in the year 36812, which JSON has no
// times for.
func TestEntryOfFarFuture(t *testing.T) {
	for _, created := range []int64{0, 253402300799, 253402300800, 1<<40 - 1} {
		e := NewEntry(&ckm.Info{Name: "a", Version: 1, Created: created}, ckm.Digest{}, 1)
		c := &Catalog{Format: 1, Images: []Entry{e}}
		if _, err := ParseCatalog(c.Encode()); err != nil {
			t.Errorf("%d: %v", created, err)
		}
		if want := time.Unix(min(created, 253402300799), 0); !e.Created.Equal(want) {
			t.Errorf("%d became %v", created, e.Created)
		}
	}
}

func FuzzParseCatalog(f *testing.F) {
	f.Add([]byte(`{"format":1,"images":null,"last_versions":{"a":1}}`))
	f.Add(catalogOf(f, nil, goodEntry("a", 9, nil), goodEntry("a", 10, nil), goodEntry("größe", 1, nil)))
	f.Add(catalogOf(f, nil, goodEntry("a", 1<<31, nil)))
	f.Add(catalogOf(f, nil, goodEntry("../a", 1, map[string]any{"created": "9999-12-31T23:59:59+23:59", "index_size": 1 << 30})))
	f.Add(catalogOf(f, nil, goodEntry("a", 1, map[string]any{"created": "0000-01-01T00:00:00-23:59"})))
	f.Fuzz(func(t *testing.T, p []byte) {
		c, err := ParseCatalog(p)
		if err != nil {
			if !errors.Is(err, ckm.ErrFormat) && !errors.Is(err, ckm.ErrUnsupported) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		checkCatalog(t, c)
	})
}
