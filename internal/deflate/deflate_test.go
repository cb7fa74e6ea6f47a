package deflate

import (
	"bytes"
	"compress/flate"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zeebo/blake3"

	"prestage/internal/testenv"
)

// inputs are what makes the programs decide in different ways.
func inputs() map[string][]byte {
	rng := rand.New(rand.NewPCG(1, 2))
	random := func(n int, alphabet int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.IntN(alphabet))
		}
		return b
	}
	var words []string
	for range 3000 {
		words = append(words, string(random(2+rng.IntN(9), 26)))
	}
	text := func(n int) []byte {
		var b bytes.Buffer
		for b.Len() < n {
			// Some words are frequent, as in texts.
			b.WriteString(words[int(float64(len(words))*rng.Float64()*rng.Float64()*rng.Float64())])
			b.WriteByte(' ')
		}
		return b.Bytes()[:n]
	}
	// Frequencies like those of Fibonacci make codes that are too long.
	var skewed []byte
	for a, b, c := 1, 1, byte(0); a < 20_000; a, b, c = b, a+b, c+1 {
		skewed = append(skewed, bytes.Repeat([]byte{c}, a)...)
	}
	rng.Shuffle(len(skewed), func(i, j int) { skewed[i], skewed[j] = skewed[j], skewed[i] })
	return map[string][]byte{
		"nothing":          nil,
		"a byte":           {7},
		"two":              {7, 7},
		"short":            []byte("to be or not to be"),
		"zeros":            make([]byte, 300_000),
		"random":           random(200_000, 256),
		"few symbols":      random(50_000, 3),
		"text":             text(450_000),
		"window":           text(2 * windowSize),
		"window and a bit": text(windowSize + maxDistance + 1),
		"text and random":  append(append(text(100_000), random(100_000, 256)...), text(150_000)...),
		"skewed":           skewed,
		"period":           bytes.Repeat(random(windowSize-200, 256), 5),
		"far":              bytes.Repeat(append(random(5000, 256), "abc"...), 40),
		"long runs":        bytes.Repeat(append(make([]byte, 1000), random(50, 256)...), 200),
	}
}

// made is Append for what takes no more work than it may.
func (e *Encoder) made(dst, in []byte, m Maker) []byte {
	dst, err := e.Append(dst, in, m)
	if err != nil {
		panic(err)
	}
	return dst
}

// golden is a digest of all members of inputs, as zlib 1.2.13 and gzip 1.12 make
// them: no other program is needed to see that they still are.
const golden = "4349a2acc1e8ccf477876f748539ab90bd32d90fd213abf777b66fc5c9529d8f"

func TestEncode(t *testing.T) {
	var e Encoder
	all := blake3.New()
	inputs := inputs()
	for _, name := range slices.Sorted(maps.Keys(inputs)) {
		in := inputs[name]
		for level := MinLevel; level <= MaxLevel; level++ {
			for _, m := range []Maker{Zlib, Gzip} {
				m |= Maker(level)
				member := e.made([]byte("x"), in, m)[1:]
				all.Write(member)
				got, err := io.ReadAll(flate.NewReader(bytes.NewReader(member)))
				if err != nil || !bytes.Equal(got, in) {
					t.Errorf("%s by %#x: %d bytes of %d, %v", name, m, len(got), len(in), err)
				}
				if !e.Makes(member, in, m) {
					t.Errorf("%s by %#x is not seen to be", name, m)
				}
				for _, wrong := range [][]byte{member[:len(member)-1], append(bytes.Clone(member), 0), append([]byte{^member[0]}, member[1:]...)} {
					if e.Makes(wrong, in, m) {
						t.Errorf("%s by %#x: another member is seen as that", name, m)
					}
				}
			}
		}
	}
	if got := hex.EncodeToString(all.Sum(nil)); got != golden {
		t.Errorf("all members have the digest %s, and should have %s", got, golden)
	}
}

// against compares what is made of the inputs, at all levels, with what a program
// makes: of in, or of something else that it says.
func against(t *testing.T, by Maker, program func(t *testing.T, in []byte, level int) (of, member []byte)) {
	var e Encoder
	for name, in := range inputs() {
		for level := MinLevel; level <= MaxLevel; level++ {
			if of, member := program(t, in, level); !e.Makes(member, of, by|Maker(level)) {
				t.Errorf("%s at level %d: not what the program makes", name, level)
			}
		}
	}
}

// run runs a program, and returns what it prints.
func run(t *testing.T, dir string, in []byte, args ...string) []byte {
	t.Helper()
	c := exec.Command(args[0], args[1:]...)
	c.Dir, c.Stdin = dir, bytes.NewReader(in)
	c.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_SYSTEM="+os.DevNull)
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return out
}

// As GNU gzip does.
func TestGzip(t *testing.T) {
	testenv.Need(t, "gzip")
	against(t, Gzip, func(t *testing.T, in []byte, level int) (of, member []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "in"), in, 0o600); err != nil {
			t.Fatal(err)
		}
		out := run(t, dir, nil, "gzip", fmt.Sprintf("-%dnc", level), "in")
		return in, out[10 : len(out)-8]
	})
}

// As zlib does, by which git compresses.
func TestZlib(t *testing.T) {
	testenv.Need(t, "git")
	against(t, Zlib, func(t *testing.T, in []byte, level int) (of, member []byte) {
		dir := t.TempDir()
		run(t, dir, nil, "git", "init", "-q", ".")
		id := strings.TrimSpace(string(run(t, dir, in, "git", "-c", fmt.Sprintf("core.looseCompression=%d", level), "hash-object", "-w", "--stdin")))
		out, err := os.ReadFile(filepath.Join(dir, ".git", "objects", id[:2], id[2:]))
		if err != nil {
			t.Fatal(err)
		}
		return append(fmt.Appendf(nil, "blob %d\x00", len(in)), in...), out[2 : len(out)-4]
	})
}

// Some input takes both programs minutes for each MiB.
func TestWork(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	var block []byte
	for len(block) < 40<<10 {
		block = append(block, "aaaaaa"...)
		block = append(block, byte(rng.IntN(256)), byte(rng.IntN(256)))
	}
	hard := bytes.Repeat(block, 100)
	var e Encoder
	began := time.Now()
	if _, err := e.Append(nil, hard, Zlib|9); !errors.Is(err, ErrWork) {
		t.Errorf("%d bytes: %v", len(hard), err)
	}
	if e.Makes([]byte{0xff}, hard, Zlib|9) {
		t.Error("it is seen as made")
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("giving up took %v", took)
	}
	// What is usual is far from that.
	for name, in := range inputs() {
		if e.made(nil, in, Gzip|9); e.steps > 60*(len(in)+windowSize) {
			t.Errorf("%s: %d places were tried for %d bytes", name, e.steps, len(in))
		}
	}
}

// FuzzEncode checks that whatever is compressed can be decompressed, and that what is
// found in anything lies in it.
func FuzzEncode(f *testing.F) {
	f.Add([]byte("to be or not to be"), byte(Zlib|6))
	f.Add(bytes.Repeat([]byte("ab"), 40_000), byte(Gzip|9))
	archive, err := hex.DecodeString("1f8b080000000000000203")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(new(Encoder).made(archive[:10], bytes.Repeat([]byte("member"), 100), Gzip|9), byte(Gzip|9))
	var e Encoder
	var d Inflater
	f.Fuzz(func(t *testing.T, in []byte, maker byte) {
		if m := Maker(maker); m.Valid() {
			member, err := e.Append(nil, in, m)
			if err != nil {
				return
			}
			out, n, err := d.Append(nil, append(member, "more"...), len(in))
			if err != nil || n != len(member) || !bytes.Equal(out, in) {
				t.Fatalf("%d bytes come back as %d, from %d of %d: %v", len(in), len(out), n, len(member), err)
			}
		}
		const most = 1 << 20
		end := 0
		for s := range d.Find(in, most) {
			if s.Offset < end || s.Length < shortest || s.Offset+s.Length > len(in) || len(s.Inflated) > most {
				t.Fatalf("%d bytes at %d, after %d", s.Length, s.Offset, end)
			}
			end = s.Offset + s.Length
			if m, ok := e.Maker(in, s); ok && !bytes.Equal(e.made(nil, s.Inflated, m), in[s.Offset:end]) {
				t.Fatalf("%#x does not make what it made", m)
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	in := inputs()["text"]
	var e Encoder
	var out []byte
	for _, level := range []Maker{6, 9} {
		b.Run(fmt.Sprint(level), func(b *testing.B) {
			b.SetBytes(int64(len(in)))
			for b.Loop() {
				out = e.made(out[:0], in, Gzip|level)
			}
		})
	}
}
