package chunk

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"testing"
)

func random(seed uint64, n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	r.Read(p)
	return p
}

func cuts(p []byte) (lengths []int) {
	for len(p) > 0 {
		n := Cut(p)
		lengths = append(lengths, n)
		p = p[n:]
	}
	return lengths
}

// The cut points are part of what makes updates small: a change that moves
// them makes every image new to every client, so it must not happen unseen.
func TestCutPointsArePinned(t *testing.T) {
	h := sha256.New()
	for _, n := range cuts(random(1, 16<<20)) {
		fmt.Fprintln(h, n)
	}
	const want = "832becb22b3d64f0"
	if got := hex.EncodeToString(h.Sum(nil))[:16]; got != want {
		t.Errorf("cut points have moved: got %s, want %s", got, want)
	}
}

func TestBounds(t *testing.T) {
	for _, n := range []int{0, 1, Min - 1, Min, Min + 1, Avg - 1, Avg, Avg + 1, Max - 1, Max, Max + 1, 3 * Max} {
		for name, p := range map[string][]byte{"random": random(2, n), "constant": bytes.Repeat([]byte{7}, n)} {
			lengths, sum := cuts(p), 0
			for i, l := range lengths {
				if l < 1 || l > Max || l < Min && i < len(lengths)-1 {
					t.Errorf("%s of %d bytes: chunk %d has %d bytes", name, n, i, l)
				}
				sum += l
			}
			if sum != n {
				t.Errorf("%s of %d bytes: chunks make %d", name, n, sum)
			}
		}
	}
}

func TestAverage(t *testing.T) {
	p := random(3, 64<<20)
	if avg := len(p) / len(cuts(p)); avg < Avg*3/4 || avg > Avg*3/2 {
		t.Errorf("average chunk of random data has %d bytes, aimed at %d", avg, Avg)
	}
}

// An insertion moves everything behind it, and yet only the chunks around it change.
func TestInsertionChangesFewChunks(t *testing.T) {
	p := random(4, 8<<20)
	q := bytes.Join([][]byte{p[:3<<20], []byte("inserted"), p[3<<20:]}, nil)
	have := map[[32]byte]bool{}
	for _, n := range cuts(p) {
		have[sha256.Sum256(p[:n])] = true
		p = p[n:]
	}
	fresh := 0
	for _, n := range cuts(q) {
		if !have[sha256.Sum256(q[:n])] {
			fresh++
		}
		q = q[n:]
	}
	if fresh == 0 || fresh > 3 {
		t.Errorf("an insertion of 8 bytes made %d chunks new", fresh)
	}
}

func BenchmarkCut(b *testing.B) {
	p := random(5, 16<<20)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		cuts(p)
	}
}
