package server

import (
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"prestage/internal/server/access"
)

// proxies are the networks of a test.
func proxies(t testing.TB, networks ...string) (all Proxies) {
	t.Helper()
	for _, s := range networks {
		p, err := ParseProxy(s)
		must(t, err)
		all = append(all, p)
	}
	return all
}

func TestParseProxy(t *testing.T) {
	for s, want := range map[string]string{
		"10.0.0.7": "10.0.0.7/32", "10.0.0.0/8": "10.0.0.0/8", "::1": "::1/128", "2001:db8::/32": "2001:db8::/32", "::ffff:10.0.0.7": "10.0.0.7/32",
		"": "", "10.0.0.7/8": "", "10.0.0": "", "10.0.0.0/33": "", "proxy": "", "fe80::1%eth0": "", "::ffff:10.0.0.0/104": "", "10.0.0.7:80": "",
	} {
		p, err := ParseProxy(s)
		if (err == nil) != (want != "") || err == nil && p.String() != want {
			t.Errorf("%q: %v, %v", s, p, err)
		}
	}
}

func TestRemoteOf(t *testing.T) {
	all := proxies(t, "10.0.0.0/8", "2001:db8:1::/48")
	const proxy, plain = "10.0.0.1:5000", "192.0.2.1:5000"
	for _, c := range []struct{ from, header, want string }{ // want: "", the connection
		{proxy, "", ""},
		{plain, "X-Forwarded-For: 192.0.2.7", ""}, {plain, "Forwarded: for=192.0.2.7", ""}, {"pipe", "X-Forwarded-For: 192.0.2.7", ""},
		{proxy, "X-Forwarded-For: 192.0.2.7", "192.0.2.7"},
		{"[::ffff:10.0.0.1]:80", "X-Forwarded-For: 192.0.2.7", "192.0.2.7"},
		{"[2001:db8:1::2]:80", "X-Forwarded-For: 192.0.2.7", "192.0.2.7"},
		{proxy, "X-Forwarded-For: 192.0.2.9, 192.0.2.7", "192.0.2.7"},
		{proxy, "X-Forwarded-For: 192.0.2.9,192.0.2.7 ,\t10.0.0.2", "192.0.2.7"},
		{proxy, "X-Forwarded-For: 192.0.2.9\nX-Forwarded-For: 192.0.2.7", "192.0.2.7"},
		{proxy, "X-Forwarded-For: 192.0.2.7\nX-Forwarded-For: 10.0.0.2", "192.0.2.7"},
		{proxy, "X-Forwarded-For: nonsense, \", 192.0.2.7", "192.0.2.7"},
		{proxy, "X-Forwarded-For: 2001:db8::7", "2001:db8::7"}, {proxy, "X-Forwarded-For: [2001:db8::7]", "2001:db8::7"},
		{proxy, "X-Forwarded-For: [2001:db8::7]:80", "2001:db8::7"}, {proxy, "X-Forwarded-For: 192.0.2.7:80", "192.0.2.7"},
		{proxy, "X-Forwarded-For: ::ffff:192.0.2.7", "192.0.2.7"},
		// Nonsense, or nobody but proxies.
		{proxy, "X-Forwarded-For: ", ""}, {proxy, "X-Forwarded-For: 192.0.2.7,", ""}, {proxy, "X-Forwarded-For: 10.0.0.2", ""},
		{proxy, "X-Forwarded-For: 192.0.2.7, unknown", ""}, {proxy, "X-Forwarded-For: 192.0.2.7, 10.0.0.2, x", ""}, {proxy, "X-Forwarded-For: 192.0.2.7 192.0.2.8", ""},
		{proxy, "X-Forwarded-For: fe80::1%eth0", ""}, {proxy, "X-Forwarded-For: 0.0.0.0", ""}, {proxy, "X-Forwarded-For: unix:", ""}, {proxy, "X-Forwarded-For: [192.0.2.7]", ""},
		{proxy, "X-Forwarded-For: 192.0.2.7:99999", ""}, {proxy, "X-Forwarded-For: 192.0.2.7, \"192.0.2.8\"", ""}, {proxy, "X-Forwarded-For: 192.0.2.007", ""},
		// The other field.
		{proxy, "Forwarded: for=192.0.2.7", "192.0.2.7"}, {proxy, "Forwarded: For=\"192.0.2.7:80\"", "192.0.2.7"},
		{proxy, "Forwarded: for=192.0.2.7;proto=http;by=203.0.113.43", "192.0.2.7"}, {proxy, "Forwarded: by=_x; FOR=192.0.2.7 ;", "192.0.2.7"},
		{proxy, `Forwarded: for=192.0.2.9, for="[2001:db8::7]:4711";host="a,b;c"`, "2001:db8::7"},
		{proxy, "Forwarded: for=192.0.2.7, for=10.0.0.2", "192.0.2.7"}, {proxy, "Forwarded: for=192.0.2.9\nForwarded: for=192.0.2.7", "192.0.2.7"},
		{proxy, "Forwarded: for=\", for=192.0.2.7", "192.0.2.7"},
		{proxy, "Forwarded: ", ""}, {proxy, "Forwarded: for=unknown", ""}, {proxy, "Forwarded: for=_hidden", ""}, {proxy, "Forwarded: proto=http", ""},
		{proxy, "Forwarded: for=2001:db8::7", ""}, {proxy, "Forwarded: for=192.0.2.7:80", ""}, {proxy, "Forwarded: for=192.0.2.7;for=192.0.2.8", ""},
		{proxy, "Forwarded: 192.0.2.7", ""}, {proxy, "Forwarded: for", ""}, {proxy, "Forwarded: for =192.0.2.7", ""}, {proxy, `Forwarded: for="192.0.2\.7"`, ""},
		{proxy, `Forwarded: for="192.0.2.7`, ""}, {proxy, "Forwarded: for=192.0.2.7;x", ""}, {proxy, "Forwarded: for=192.0.2.7;(x)=y", ""},
		// A proxy that adds to the first leaves the second as the client has sent it.
		{proxy, "X-Forwarded-For: 192.0.2.7\nForwarded: for=192.0.2.8", "192.0.2.7"}, {proxy, "X-Forwarded-For: x\nForwarded: for=192.0.2.8", ""},
	} {
		r := &http.Request{RemoteAddr: c.from, Header: http.Header{}}
		for line := range strings.Lines(c.header) {
			name, value, _ := strings.Cut(line, ": ")
			r.Header.Add(name, strings.TrimSuffix(value, "\n"))
		}
		remote, by := all.remoteOf(r)
		want, wantBy := c.want, c.from
		if want == "" {
			want, wantBy = c.from, ""
		}
		if remote != want || by != wantBy {
			t.Errorf("from %s, %q: %q by %q, want %q", c.from, c.header, remote, by, want)
		}
		if remote, by := Proxies(nil).remoteOf(r); remote != c.from || by != "" {
			t.Errorf("from %s, who is not trusted, %q: %q by %q", c.from, c.header, remote, by)
		}
	}
}

// FuzzForwarded puts what a client sends before what a proxy adds: it changes nothing.
// Alone it is an address, or nothing.
func FuzzForwarded(f *testing.F) {
	all := proxies(f, "10.0.0.0/8")
	for _, s := range []string{"192.0.2.9", "for=192.0.2.9", `for="[2001:db8::7]:80";by=x`, `"`, `\"`, ",", "10.0.0.2", ";", `for="`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		is := func(field, value string) (remote string) {
			remote, _ = all.remoteOf(&http.Request{RemoteAddr: "10.0.0.1:80", Header: http.Header{field: {value}}})
			return remote
		}
		for _, more := range []string{", 192.0.2.7", ",192.0.2.7, 10.0.0.2"} {
			if got := is("X-Forwarded-For", s+more); got != "192.0.2.7" {
				t.Errorf("%q: %s", s+more, got)
			}
			if more = strings.NewReplacer("192", "for=192", "10.", `proto="a,b";for=10.`).Replace(more); is("Forwarded", s+more) != "192.0.2.7" {
				t.Errorf("%q: %s", s+more, is("Forwarded", s+more))
			}
		}
		for _, field := range []string{"X-Forwarded-For", "Forwarded"} {
			got := is(field, s)
			if a, err := netip.ParseAddr(got); got != "10.0.0.1:80" && (err != nil || all.has(a)) {
				t.Errorf("%s %q: %s", field, s, got)
			}
		}
	})
}

// What counts for a client counts for that behind a trusted proxy, and no header
// helps anybody else.
func TestForwarded(t *testing.T) {
	const wrong = "Authorization: Basic YWxpY2U6d3Jvbmc="
	for _, trusted := range []bool{true, false} {
		record := &diary{}
		c := Config{Access: access.Config{Users: users(t)}, Requests: slog.New(slog.NewJSONHandler(record, nil)), Limits: Limits{EachHas: 2}}
		if trusted {
			c.Proxies = proxies(t, "127.0.0.1")
		}
		s := start(t, c)
		ask := func(client, as string) int {
			t.Helper()
			return s.get("catalog.json", as, "X-Forwarded-For: 192.0.2.9, "+client).StatusCode
		}
		for range 5 {
			ask("192.0.2.7", wrong)
		}
		eventually(t, "who guesses is slowed", func() bool { return ask("192.0.2.7", wrong) == http.StatusTooManyRequests })
		if code := ask("192.0.2.8", asAlice); (code == 200) != trusted {
			t.Errorf("trusted %v: another client: %d", trusted, code)
		}
		eventually(t, "it is recorded", func() bool { return strings.Contains(record.String(), `"reader":"user:alice"`) || !trusted })
		for _, client := range []string{"192.0.2.7", "192.0.2.8"} {
			if got := strings.Contains(record.String(), `"remote":"`+client+`"`); got != trusted {
				t.Errorf("trusted %v: %s is on record: %v", trusted, client, got)
			}
		}
	}
}
