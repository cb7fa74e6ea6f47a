package policy

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"prestage/internal/daytime"
	"prestage/internal/sign"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func window(t testing.TB, s string) daytime.Window {
	w, err := daytime.Parse(s)
	must(t, err)
	return w
}

func example(t testing.TB) *Policy {
	p := New()
	keep, yes := 2, true
	when := time.Date(2026, 12, 1, 22, 0, 0, 0, time.UTC)
	p.Serial = 7
	p.Groups["lab"] = []string{"kiosk-?", "PC-1*"}
	p.Images["win11"] = Rule{Machines: []string{"@lab", "boss.example.org"}, Update: Force, Version: 7, Ahead: 8, Keep: &keep, Wave: 20,
		NotBefore: &when, Window: window(t, "22:00-06:00"), Limit: 1 << 20, TrimTransfer: &yes, SeedFolders: []string{`C:\<Data> & more`}, UpdateFromPrestaged: &yes}
	p.Images["all"] = Rule{Machines: []string{"*"}}
	return p
}

func TestRoundTrip(t *testing.T) {
	encoded, err := example(t).Encode()
	must(t, err)
	p, _, err := Parse(encoded)
	must(t, err)
	again, err := p.Encode()
	must(t, err)
	if !bytes.Equal(encoded, again) {
		t.Errorf("%s\nbecame\n%s", encoded, again)
	}
}

func TestInvalid(t *testing.T) {
	good, err := example(t).Encode()
	must(t, err)
	for name, c := range map[string][2]string{
		"unknown field":    {`"serial"`, `"not_after": 1, "serial"`},
		"newer format":     {`"format": 1`, `"format": 2, "news": {}`},
		"no format":        {`"format": 1`, `"format": 0`},
		"no group":         {`"@lab"`, `"@nowhere"`},
		"group in a group": {`"kiosk-?"`, `"@lab"`},
		"bad pattern":      {`"kiosk-?"`, `"kiosk-[a"`},
		"a space":          {`"kiosk-?"`, `"kiosk 1"`},
		"mode":             {`"force"`, `"sometimes"`},
		"wave":             {`"wave": 20`, `"wave": 101`},
		"keep":             {`"keep": 2`, `"keep": -1`},
		"ahead":            {`"ahead": 8`, `"ahead": 7`},
		"window":           {`"22:00-06:00"`, `"late"`},
		"image name":       {`"win11"`, `"win 11"`},
		"something after":  {"\n}\n", "\n}\n{}"},
	} {
		bad := strings.Replace(string(good), c[0], c[1], 1)
		if bad == string(good) {
			t.Fatalf("%s: nothing was changed", name)
		}
		if _, _, err := Parse([]byte(bad)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestFor(t *testing.T) {
	p := example(t)
	for machine, want := range map[string]string{
		"pc-17": "all win11", "PC-17.example.org": "all win11", "pc-27": "all", "kiosk-1": "all win11", "kiosk-12": "all",
		"BOSS.example.org": "all win11", "boss": "all",
	} {
		own := p.For(machine)
		var names []string
		for _, name := range []string{"all", "win11"} {
			if _, ok := own[name]; ok {
				names = append(names, name)
			}
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s has %q, should have %q", machine, got, want)
		}
	}
}

// Waves grow: who was in a small one is in each larger one. They have about as many
// machines as they say, and other ones for another image.
func TestWaves(t *testing.T) {
	const machines = 10_000
	in, both := 0, 0
	for i := range machines {
		name := fmt.Sprintf("PC-%d.example.org", i)
		first := Share("win11", name)
		if first < 0 || first > 99 || first != Share("win11", strings.ToLower(name)) || first != Share("win11", fmt.Sprintf("pc-%d", i)) {
			t.Fatalf("%s stands at %d", name, first)
		}
		if first < 10 {
			in++
			if Share("kiosk", name) < 10 {
				both++
			}
		}
	}
	// Six standard deviations.
	if in < 820 || in > 1180 || both < 40 || both > 160 {
		t.Errorf("a wave of 10 %% has %d of %d machines, %d of them in the one of another image", in, machines, both)
	}
}

func TestWaits(t *testing.T) {
	when := time.Date(2026, 12, 1, 12, 0, 0, 0, time.Local)
	r := Rule{NotBefore: &when, Window: window(t, "22:00-06:00")}
	at := func(hours int) time.Time { return time.Date(2026, 12, 1, hours, 0, 0, 0, time.Local) }
	for _, c := range []struct {
		hour, until int
		why         string
	}{{0, 12, "not before"}, {11, 12, "not before"}, {12, 22, "closed"}, {22, 0, ""}, {29, 0, ""}, {30, 46, "closed"}} {
		why, until := r.Waits("win11", "pc", at(c.hour))
		if (why == "") != (c.why == "") || !strings.Contains(why, c.why) || c.why != "" && !until.Equal(at(c.until)) {
			t.Errorf("at %d: %q until %v", c.hour, why, until)
		}
	}
	nobody := Rule{Wave: 1}
	somebody := 0
	for i := range 1_000 {
		if why, _ := nobody.Waits("win11", fmt.Sprint("pc", i), at(1)); why == "" {
			somebody++
		}
	}
	if somebody == 0 || somebody > 50 {
		t.Errorf("%d of 1000 machines are in a wave of 1 %%", somebody)
	}
}

func TestSignatures(t *testing.T) {
	k, err := sign.NewKey()
	must(t, err)
	other, err := sign.NewKey()
	must(t, err)
	trust, err := sign.ParseTrust([]string{k.PublicLine()})
	must(t, err)
	p := example(t)
	p.Images["win11"] = Rule{SeedFolders: []string{"a<b"}}
	encoded, err := p.Encode()
	must(t, err)
	// As somebody edits it by hand.
	encoded = bytes.Replace(encoded, []byte(`\u003c`), []byte("<"), 1)
	check := func(b []byte) error {
		t.Helper()
		p, s, err := Parse(b)
		must(t, err)
		return s.CheckSigned(trust, p.Serial)
	}
	if err := check(encoded); !errors.Is(err, sign.ErrUntrusted) {
		t.Errorf("without a signature: %v", err)
	}
	_, s, err := Parse(encoded)
	must(t, err)
	must(t, s.Sign(other, p.Serial, 1))
	foreign, err := s.Encode()
	must(t, err)
	if err := check(foreign); !errors.Is(err, sign.ErrUntrusted) {
		t.Errorf("signed by another key: %v", err)
	}
	must(t, s.Sign(k, p.Serial, 1))
	must(t, s.Sign(k, p.Serial, 2))
	if len(s.Signatures) != 2 {
		t.Errorf("%d signatures by two keys", len(s.Signatures))
	}
	signed, err := s.Encode()
	must(t, err)
	must(t, check(signed))
	must(t, check(bytes.ReplaceAll(signed, []byte("  "), nil)))
	for _, c := range [][2]string{{`"serial": 7`, `"serial": 8`}, {"a<b", "a<c"}} {
		if err := check(bytes.Replace(signed, []byte(c[0]), []byte(c[1]), 1)); !errors.Is(err, sign.ErrUntrusted) {
			t.Errorf("with %s: %v", c[1], err)
		}
	}
}

// FuzzParse checks that what is read can be written and read again, and means the
// same.
func FuzzParse(f *testing.F) {
	b, err := example(f).Encode()
	must(f, err)
	f.Add(b)
	f.Add([]byte(`{"policy":{"format":1,"images":{"a":{"machines":["*"],"window":"1:00-2:00"}}},"signatures":["x"]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, s, err := Parse(b)
		if err != nil {
			return
		}
		if _, err := s.Digest(); err != nil {
			t.Fatal(err)
		}
		s.CheckSigned(sign.Trust{}, p.Serial)
		encoded, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		q, _, err := Parse(encoded)
		if err != nil {
			t.Fatalf("%v\n%s", err, encoded)
		}
		for _, machine := range []string{"pc-1", "PC-1.example.org"} {
			if a, b := p.For(machine), q.For(machine); len(a) != len(b) {
				t.Fatalf("%v became %v", a, b)
			}
		}
	})
}
