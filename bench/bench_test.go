//go:build linux

package main

import (
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []int64
		want int64
	}{{nil, 0}, {[]int64{7}, 7}, {[]int64{9, 1, 5}, 5}, {[]int64{8, 2, 4, 100}, 6}} {
		if got := median(c.in, func(n int64) int64 { return n }); got != c.want {
			t.Errorf("median of %v: %d, want %d", c.in, got, c.want)
		}
	}
}

func TestPairsCompareWithinARound(t *testing.T) {
	// The second round was slow for both: no pair is worse for it.
	ours := samples{{wall: 2 * time.Second}, {wall: 20 * time.Second}}
	theirs := samples{{wall: 4 * time.Second}, {wall: 25 * time.Second}}
	if low, high := pairs(ours, theirs); low != 0.5 || high != 0.8 {
		t.Errorf("pairs: %v to %v, want 0.5 to 0.8", low, high)
	}
}

func TestVerdict(t *testing.T) {
	for want, r := range map[string]row{
		"met":                        {budget: 1, ratio: 1, low: 0.9, high: 1},
		"met, not in every pair":     {budget: 1, ratio: 0.9, low: 0.8, high: 1.1},
		"**not met**":                {budget: 1, ratio: 1.2, low: 1.1, high: 1.3},
		"**not met**, in some pairs": {budget: 1, ratio: 1.2, low: 0.9, high: 1.3},
		"(informs)":                  {ratio: 7},
		"–":                          {budget: 1, missing: "no peer"},
	} {
		if got := r.verdict(); got != want {
			t.Errorf("verdict of %+v: %q, want %q", r, got, want)
		}
	}
}

func TestBetweenKeepsWhatIsWrittenByHand(t *testing.T) {
	begin, end := marks("here")
	doc := "# Title\nby hand\n" + begin + "\nold\n" + end + "\nalso by hand\n"
	got, err := between(doc, "here", "new\n")
	if err != nil {
		t.Fatal(err)
	}
	if want := "# Title\nby hand\n" + begin + "\nnew\n" + end + "\nalso by hand\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if again, _ := between(got, "here", "new\n"); again != got {
		t.Errorf("a second time gives %q", again)
	}
	for _, doc := range []string{"", begin, end, doc} {
		if _, err := between(doc, "elsewhere", "new"); err == nil {
			t.Errorf("%q: no error", doc)
		}
	}
}

// The document and its template have a place for each part.
func TestDocumentsHaveAllParts(t *testing.T) {
	for _, doc := range []string{"performance.md", "../doc/performance.md"} {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{partLocal, partPush} {
			if _, err := between(string(text), part, "new"); err != nil {
				t.Errorf("%s: %v", doc, err)
			}
		}
	}
}

func TestSameContent(t *testing.T) {
	dir := t.TempDir()
	const size = 5<<20 + 7
	// sparse makes a file of holes with some bytes in them.
	sparse := func(name string, size int64, data map[int64]string) string {
		path := filepath.Join(dir, name)
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		for at, b := range data {
			if _, err := f.WriteAt([]byte(b), at); err != nil {
				t.Fatal(err)
			}
		}
		return path
	}
	zeros := strings.Repeat("\x00", 2<<20)
	want := sparse("want", size, map[int64]string{3 << 20: "x"})
	for name, c := range map[string]struct {
		got  string
		same bool
	}{
		"the same":              {sparse("a", size, map[int64]string{3 << 20: "x"}), true},
		"zeros instead of hole": {sparse("b", size, map[int64]string{0: zeros, 3 << 20: "x"}), true},
		"more at the end":       {sparse("c", size, map[int64]string{3 << 20: "x", size - 1: "y"}), false},
		"other in the middle":   {sparse("d", size, map[int64]string{3 << 20: "y"}), false},
		"all a hole":            {sparse("e", size, nil), false},
		"longer":                {sparse("f", size+1, map[int64]string{3 << 20: "x"}), false},
	} {
		if err := sameContent(want, c.got); (err == nil) != c.same {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFindCount(t *testing.T) {
	v := map[string]any{"image": map[string]any{"name": "x"}, "package": []any{map[string]any{"chunks": 12.0}}}
	if n := findCount(v, "chunks"); n != 12 {
		t.Errorf("nested number: %d, want 12", n)
	}
	if n := findCount(map[string]any{"chunks": []any{1.0, 2.0}}, "chunks"); n != 2 {
		t.Errorf("list: %d, want 2", n)
	}
}

// The stand-ins do what the runner expects of prestage and desync, by copying.
const fakePrestage = `#!/bin/sh
set -eu
json=
while :; do case "$1" in
	--config) config=$2; shift 2 ;;
	--quiet) shift ;;
	--json) json=1; shift ;;
	*) break ;;
esac; done
verb=$1; shift
case "$verb" in
version) echo prestage 0.0.0-fake ;;
pack)
	if [ "$1" = --help ]; then echo '--discard-free'; exit; fi
	cp "$1" "$5/bench_1.ckm"; echo index > "$5/bench_1.index" ;;
inspect) echo '{"index":{"chunks":3}}' ;;
setup)
	mkdir -p "$1/MED-V Images/PrestagedImages"; echo "$1/MED-V Images/PrestagedImages" > "$config" ;;
push) cp "$3"/bench_1.* "$(cat "$config")" ;;
install)
	[ ! -e "$3" ] || { echo "the target is there already" >&2; exit 1; }
	mkdir -p "$3/bench/1"; cp "$(cat "$config")/bench_1.ckm" "$3/bench/1/image.raw"
	[ -z "${FAKE_DAMAGE:-}" ] || printf x | dd of="$3/bench/1/image.raw" conv=notrunc bs=1 seek=1500000 2>/dev/null ;;
verify) test -s "$1" ;;
*) echo "unknown verb $verb" >&2; exit 2 ;;
esac
`

const fakeDesync = `#!/bin/sh
set -eu
case "$1" in
make) cp "$5" "$3/chunk"; echo index > "$4" ;;
extract) cp "$3/chunk" "$5" ;;
esac
`

// fake lays out a machine with stand-ins and a small image.
func fake(t *testing.T) options {
	t.Helper()
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	image := make([]byte, 3<<20+5)
	var seed [32]byte
	rand.NewChaCha8(seed).Read(image[1<<20:])
	o := options{
		image:    file("image.raw", string(image), 0o644),
		work:     filepath.Join(dir, "work"),
		rounds:   2,
		doc:      filepath.Join(dir, "doc", "performance.md"),
		template: "performance.md",
		prestage: file("prestage", fakePrestage, 0o755),
		desync:   file("desync", fakeDesync, 0o755),
		out:      io.Discard,
		log:      io.Discard,
	}
	if err := os.Mkdir(o.work, 0o755); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestRunFillsTheTable(t *testing.T) {
	o := fake(t)
	if err := run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(o.doc)
	if err != nil {
		t.Fatal(err)
	}
	// How wide the columns are is not the point.
	doc := strings.Join(strings.Fields(string(raw)), " ")
	for _, want := range []string{
		"## Method",
		"Versions: prestage 0.0.0-fake",
		"medians of 2 rounds",
		"| pack, bit-exact | desync make | ≤ 0.30 |",
		"not measured: zstd is missing",
		"not measured: casync is missing",
		"192 MiB + 48 bytes × 3 chunks",
		"3.0 MiB / 3.0 MiB",
		"| verify a package | sha256sum | ≤ 0.40 |",
		"| serve |",
		"| push over SMB | smbclient put | ≤ 1.11 | – | – | – | – | not measured: missing ip, tc,",
	} {
		if !strings.Contains(doc, want) {
			t.Errorf("the document lacks %q:\n%s", want, doc)
		}
	}
}

func TestRunRefusesAWrongImage(t *testing.T) {
	t.Setenv("FAKE_DAMAGE", "1")
	o := fake(t)
	err := run(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "within 1 MiB of offset 1048576") {
		t.Errorf("an install that damages the image: %v", err)
	}
	if _, err := os.Stat(o.doc); err == nil {
		t.Error("a failed run wrote the document")
	}
}

func TestRunSaysWhatAProgramSaid(t *testing.T) {
	o := fake(t)
	o.desync = filepath.Join(t.TempDir(), "desync")
	if err := os.WriteFile(o.desync, []byte("#!/bin/sh\necho no room >&2\nexit 4\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	err := run(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "no room") || !strings.Contains(err.Error(), "exit status 4") {
		t.Errorf("a failing peer: %v", err)
	}
}

func TestRunStops(t *testing.T) {
	o := fake(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := run(ctx, o); err == nil {
		t.Error("a stopped run succeeded")
	}
}
