package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"prestage/internal/testenv"
)

// whole is a report with a bit of everything.
func whole() *Report {
	e := some("text")
	e.Number, e.User, e.Digest, e.Fetched = 7, "user", "00ff", 1<<40
	return &Report{Machine: "m", Host: "h", User: "u", Client: "1", System: "linux/amd64", Time: e.Time,
		Held: []Held{{Image: "win11", Version: 2, Digest: "00ff", Time: e.Time, Staged: true}}, Events: []Event{e}}
}

func TestParse(t *testing.T) {
	good, err := json.Marshal(whole())
	must(t, err)
	r, err := Parse(good)
	must(t, err)
	if !reflect.DeepEqual(r, whole()) {
		t.Errorf("%+v", r)
	}
	// Fields that later versions may add are no fault.
	_, err = Parse(bytes.Replace(good, []byte(`{`), []byte(`{"later":{"a":[1,2]},`), 1))
	must(t, err)

	for what, change := range map[string]func(r *Report){
		"no machine":               func(r *Report) { r.Machine = "" },
		"no host":                  func(r *Report) { r.Host = "" },
		"a host that acts":         func(r *Report) { r.Host = "a\x1b[2J" },
		"a NUL":                    func(r *Report) { r.Events[0].Description = "a\x00b" },
		"text from right to left":  func(r *Report) { r.User = "\u202eabc" },
		"a long host":              func(r *Report) { r.Host = strings.Repeat("x", maxWord+1) },
		"a long description":       func(r *Report) { r.Events[0].Description = strings.Repeat("x", MaxDescription+1) },
		"a time before all":        func(r *Report) { r.Time = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC) },
		"an event's time":          func(r *Report) { r.Events[0].Time = time.Time{} },
		"a version's time":         func(r *Report) { r.Held[0].Time = time.Time{} },
		"number 0":                 func(r *Report) { r.Events[0].Number = 0 },
		"a number beyond all":      func(r *Report) { r.Events[0].Number = 1<<62 + 1 },
		"the same number twice":    func(r *Report) { r.Events = append(r.Events, r.Events[0]) },
		"an unknown severity":      func(r *Report) { r.Events[0].Severity = "dire" },
		"no severity":              func(r *Report) { r.Events[0].Severity = "" },
		"an image's name":          func(r *Report) { r.Events[0].Image = "../x" },
		"fewer than no bytes":      func(r *Report) { r.Events[0].Fetched = -1 },
		"a held image's name":      func(r *Report) { r.Held[0].Image = "a b" },
		"a held image without one": func(r *Report) { r.Held[0].Image = "" },
		"version 0":                func(r *Report) { r.Held[0].Version = 0 },
		"too many versions": func(r *Report) {
			for range MaxHeld {
				r.Held = append(r.Held, r.Held[0])
			}
		},
		"too many events": func(r *Report) {
			for i := range MaxEvents {
				e := r.Events[0]
				e.Number += uint64(i) + 1
				r.Events = append(r.Events, e)
			}
		},
	} {
		r := whole()
		change(r)
		b, err := json.Marshal(r)
		must(t, err)
		if _, err := Parse(b); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, text := range []string{"", "null", "{}", "[]", "1", string(good) + "x", string(good) + string(good), string(good[:len(good)-1]),
		strings.Replace(string(good), `"number":7`, `"number":-7`, 1), strings.Replace(string(good), `"number":7`, `"number":1e99`, 1),
		strings.Replace(string(good), `"kind":3`, `"kind":4294967296`, 1), strings.Repeat("[", 1<<20), strings.Repeat(" ", MaxReport+1)} {
		if r, err := Parse([]byte(text)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%.60q: %v %v", text, r, err)
		}
	}
}

// A report that is as long as it may be, but of nothing, takes no more memory than
// one of ours.
func TestParseIsBounded(t *testing.T) {
	for _, what := range []string{"{},", "0,", "null,", "[],", `"",`} {
		text := fmt.Sprintf(`{"machine":"m","host":"h","time":"2026-11-28T00:00:00Z","events":[%s{}]}`, strings.Repeat(what, (MaxReport-100)/len(what)))
		testenv.Bounded(t, time.Minute, func() {
			for range 20 {
				if _, err := Parse([]byte(text)); !errors.Is(err, ErrInvalid) {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
	// The largest that a machine may send is none of those.
	r := whole()
	for i := range MaxEvents - 1 {
		e := r.Events[0]
		e.Number, e.Description = uint64(i+8), strings.Repeat(`,{"\`, 200)
		r.Events = append(r.Events, e)
	}
	b, err := json.Marshal(r)
	must(t, err)
	_, err = Parse(b)
	must(t, err)
}

// What is parsed is what is written, and what a server keeps.
func FuzzParse(f *testing.F) {
	good, err := json.Marshal(whole())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"machine":"m","host":"h","time":"2026-11-28T00:00:00Z","held":null}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		r, err := Parse(p)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if len(r.Events) > MaxEvents || len(r.Held) > MaxHeld {
			t.Fatal("too many")
		}
		for i := range r.Events {
			// What the server takes, machines need not trim, but for the time.
			e := r.Events[i]
			e.Trim()
			e.Time = r.Events[i].Time
			if e != r.Events[i] {
				t.Fatalf("%+v is trimmed to %+v", r.Events[i], e)
			}
		}
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > MaxReport {
			return // it was near that before, and HTML characters are written longer
		}
		again, err := Parse(b)
		if err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		b2, err := json.Marshal(again)
		if err != nil || !bytes.Equal(b, b2) {
			t.Fatalf("%s\n%s", b, b2)
		}
	})
}
