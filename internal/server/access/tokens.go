package access

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode"
)

// tokens are the names of bearer tokens, by their SHA-256 digests. Tokens are long
// and random, so that one round of a fast function is enough, and looking for a
// digest tells nothing of those that are near.
type tokens map[[sha256.Size]byte]string

// parseTokens reads lines of NAME:DIGEST, the digest in hexadecimal digits.
func parseTokens(b []byte) (tokens, error) {
	t := tokens{}
	names := map[string]bool{}
	err := lines(b, func(name, digest string) error {
		d, err := hex.DecodeString(digest)
		if err != nil || len(d) != sha256.Size {
			return fmt.Errorf("token %q: its SHA-256 digest must follow, 64 hexadecimal digits", name)
		}
		if names[name] {
			return fmt.Errorf("token %q is there twice", name)
		}
		names[name], t[[sha256.Size]byte(d)] = true, name
		return nil
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

func (t tokens) reader(token string) (Reader, error) {
	name, found := t[sha256.Sum256([]byte(token))]
	if !found {
		return Nobody, fmt.Errorf("%w: the token is not known", ErrUnknown)
	}
	return Reader(kindToken + name), nil
}

// NewToken makes a token, and the line for it in the file of tokens, which must be
// a good one before.
func NewToken(file []byte, name string) (token, line string, err error) {
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r == ':' || r == '#' || unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return "", "", fmt.Errorf("%q cannot be the name of a token: use letters and digits", name)
	}
	have, err := parseTokens(file)
	if err != nil {
		return "", "", err
	}
	for _, n := range have {
		if n == name {
			return "", "", fmt.Errorf("there is a token %q already; remove its line first", name)
		}
	}
	token = rand.Text() + rand.Text()
	sum := sha256.Sum256([]byte(token))
	return token, name + ":" + hex.EncodeToString(sum[:]) + "\n", nil
}

// certified returns who has shown a certificate: the first name that it has for a
// machine, or what it calls its subject.
func certified(c *x509.Certificate) (Reader, error) {
	name := c.Subject.CommonName
	if len(c.DNSNames) > 0 {
		name = c.DNSNames[0]
	} else if name == "" && len(c.EmailAddresses) > 0 {
		name = c.EmailAddresses[0]
	}
	if name == "" {
		return Nobody, fmt.Errorf("%w: the certificate has no name", ErrUnknown)
	}
	return Reader(kindCertificate + name), nil
}
