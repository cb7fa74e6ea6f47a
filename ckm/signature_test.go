package ckm_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"aead.dev/minisign"

	"prestage/ckm"
)

// The keys that the vectors are signed by; they sign nothing else.
var testKeys = []string{
	"RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAFGrDb2mf6nnBUUnb34Q+cdIMwoDZKoOLQ4/5SlmxWjrdLt5N5MlaMsLXN/CqEzQKevZ6L/dS0Gh2fR+4Nez7SFY4w2GBUyVDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
	"RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAHrPJdRIsqWbYTtkdBd1t53Dq+ZHZhhFSNLW2PV8UjghqAacHFzt6cR5ZZ00djUGk+OpGS3fEYmAREU08RHylTgOme+UlFmhfAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
}

// testComment is like those that minisign makes.
const testComment = "timestamp:1780000000\tfile:win11_3.statement\thashed"

func testKey(t testing.TB, n int) (k minisign.PrivateKey) {
	t.Helper()
	if err := k.UnmarshalText([]byte(testKeys[n])); err != nil {
		t.Fatal(err)
	}
	return k
}

// minisigned is what a key's signature of a statement is in a signature block.
func minisigned(t testing.TB, k minisign.PrivateKey, statement []byte, comment string) ckm.Signature {
	t.Helper()
	r := minisign.NewReader(bytes.NewReader(statement))
	io.Copy(io.Discard, r)
	var m minisign.Signature
	if err := m.UnmarshalText(r.SignWithComments(k, comment, "")); err != nil {
		t.Fatal(err)
	}
	return ckm.Signature{Key: ckm.KeyID(m.KeyID), Statement: m.Signature, Comment: comment, Commented: m.CommentSignature}
}

// signedBy reports whether any of the signatures is right and by that key.
func signedBy(key minisign.PublicKey, statement []byte, list []ckm.Signature) bool {
	return slices.ContainsFunc(list, func(s ckm.Signature) bool {
		m := minisign.Signature{Algorithm: minisign.HashEdDSA, KeyID: uint64(s.Key), TrustedComment: s.Comment,
			Signature: s.Statement, CommentSignature: s.Commented}
		text, err := m.MarshalText()
		return err == nil && minisign.Verify(key, statement, text)
	})
}

// addSignedVectors makes the vectors of packages that are signed, rightly and not.
func addSignedVectors(t testing.TB, add func(name string, text []byte)) {
	t.Helper()
	x := must(t, small().build())
	statement := x.Statement(x.Digest())
	one, two := testKey(t, 0), testKey(t, 1)
	right := minisigned(t, one, statement, testComment)
	changed := right
	changed.Comment = strings.Replace(testComment, "178", "179", 1)
	broken := right
	broken.Statement[9] ^= 1
	for _, c := range []struct {
		name, comment string
		right         bool
		list          []ckm.Signature
	}{
		{"signed", "a signature", true, []ckm.Signature{right}},
		{"signed-comment-empty", "a signature whose comment is empty", true, []ckm.Signature{minisigned(t, one, statement, "")}},
		{"signed-comment-long", "a signature whose comment has 512 bytes", true, []ckm.Signature{minisigned(t, one, statement, strings.Repeat("é", 256))}},
		{"signed-twice", "signatures by two keys", true, []ckm.Signature{right, minisigned(t, two, statement, testComment)}},
		{"signed-other-key", "a signature by another key", false, []ckm.Signature{minisigned(t, two, statement, testComment)}},
		{"signed-other-package", "a signature of the statement of version 4", false,
			[]ckm.Signature{minisigned(t, one, bytes.Replace(statement, []byte("win11:3"), []byte("win11:4"), 1), testComment)}},
		{"signed-changed-comment", "a signature whose comment was changed", false, []ckm.Signature{changed}},
		{"signed-changed", "a signature of which a bit was changed", false, []ckm.Signature{broken}},
	} {
		p := with(small(), func(m *model) {
			m.sigs = nil
			for _, s := range c.list {
				var err error
				if m.sigs, err = ckm.AddSignature(m.sigs, s); err != nil {
					t.Fatal(err)
				}
			}
		}).build()
		signed := "wrongly"
		if c.right {
			signed = "rightly"
		}
		add("ok-"+c.name, formatVector(p, "comment", c.comment, "expect", "ok", "package-digest", x.Digest().String(),
			"chunks", fmt.Sprint(x.Chunks()), "frames", fmt.Sprint(x.Frames()), "ckm-length", fmt.Sprint(x.CKMLength),
			"public-key", one.Public().(minisign.PublicKey).String(), "signed", signed))
	}
}

// TestSignedVectors checks the signatures of vectors by the minisign library.
func TestSignedVectors(t *testing.T) {
	count := map[string]int{}
	for name, v := range readVectors(t) {
		if v.fields["signed"] == "" {
			continue
		}
		count[v.fields["signed"]]++
		x := must(t, v.index)
		list, err := ckm.ParseSignatures(x.Signatures)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var key minisign.PublicKey
		if err := key.UnmarshalText([]byte(v.fields["public-key"])); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if right := signedBy(key, x.Statement(x.Digest()), list); right != (v.fields["signed"] == "rightly") {
			t.Errorf("%s: the signature is right: %v", name, right)
		}
	}
	if count["rightly"] < 4 || count["wrongly"] < 4 {
		t.Errorf("only %v", count)
	}
}

// TestStatement pins the text that signatures sign: to change a letter of it makes
// all signatures wrong.
func TestStatement(t *testing.T) {
	x := must(t, small().build())
	want := "prestage package\nimage win11:3\ndigest " + x.Digest().String() +
		"\nSHA256 (win11_3.ckm) = " + fmt.Sprintf("%x", x.CKMSHA256) + "\n"
	if got := string(x.Statement(x.Digest())); got != want {
		t.Errorf("the statement is %q, want %q", got, want)
	}
}

// TestAddSignature keeps foreign entries, the order, and one signature a key, and
// leaves the package digest what it was.
func TestAddSignature(t *testing.T) {
	x := must(t, small().build())
	digest := x.Digest()
	statement := x.Statement(digest)
	block := slices.Concat(x.Signatures, []byte{0xff, 0xff, 1, 0, 7}) // of schemes that nobody signs by
	foreign := len(block)
	size := 0
	for i, k := range []int{0, 1, 0, 1} {
		var err error
		s := minisigned(t, testKey(t, k), statement, fmt.Sprint("signature ", i))
		if block, err = ckm.AddSignature(block, s); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			size = len(block)
		}
		list, err := ckm.ParseSignatures(block)
		if err != nil || !slices.Contains(list, s) || len(list) != min(i+1, 2) {
			t.Fatalf("signature %d: %v, %v", i, list, err)
		}
	}
	if len(block) != size || size != foreign+2*(4+136+len("signature 0")) {
		t.Errorf("the block grew from %d to %d and %d bytes", foreign, size, len(block))
	}
	x.Signatures = block
	encoded, err := x.Encode()
	if err != nil {
		t.Fatal(err)
	}
	y := must(t, encoded)
	if y.Digest() != digest {
		t.Error("signing has changed the package digest")
	}
	h, err := ckm.DecodeHead(encoded)
	if err != nil || !bytes.Equal(encoded[h.PagesEnd()+4:len(encoded)-32], block) {
		t.Errorf("the block is not where the head says (%v)", err)
	}
	for _, comment := range []string{strings.Repeat("x", 513), "a\nb", "\u202e", "\xff"} {
		if _, err := ckm.AddSignature(nil, ckm.Signature{Comment: comment}); !errors.Is(err, ckm.ErrFormat) {
			t.Errorf("the comment %.20q gives %v", comment, err)
		}
	}
	for i := range 16 << 10 / 140 {
		if block, err = ckm.AddSignature(block, ckm.Signature{Key: ckm.KeyID(i)}); err != nil {
			break
		}
	}
	if !errors.Is(err, ckm.ErrFormat) {
		t.Errorf("a block that is full gives %v", err)
	}
}

// FuzzParseSignatures checks that what is accepted can be made again, entry by
// entry, and that no signature gets lost.
func FuzzParseSignatures(f *testing.F) {
	for _, v := range readVectors(f) {
		if x, err := ckm.Decode(v.index); err == nil && len(x.Signatures) > 0 {
			f.Add(x.Signatures)
		}
	}
	f.Fuzz(func(t *testing.T, block []byte) {
		list, err := ckm.ParseSignatures(block)
		if err != nil {
			if !errors.Is(err, ckm.ErrFormat) {
				t.Fatal(err)
			}
			return
		}
		var again []byte
		keys := map[ckm.KeyID]bool{}
		for _, s := range list {
			if again, err = ckm.AddSignature(again, s); err != nil {
				t.Fatal(err)
			}
			keys[s.Key] = true
		}
		made, err := ckm.ParseSignatures(again)
		if err != nil || len(made) != len(keys) || len(keys) == len(list) && !slices.Equal(made, list) {
			t.Fatalf("%v became %v (%v)", list, made, err)
		}
	})
}
