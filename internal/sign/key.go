package sign

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"aead.dev/minisign"

	"prestage/ckm"
)

// Key is a secret key.
type Key struct{ secret minisign.PrivateKey }

// NewKey makes a key from the system's randomness.
func NewKey() (Key, error) {
	_, k, err := minisign.GenerateKey(nil)
	return Key{k}, err
}

// ID returns the key's ID.
func (k Key) ID() ckm.KeyID { return ckm.KeyID(k.secret.ID()) }

// PublicLine returns the public key in a line, as settings have it.
func (k Key) PublicLine() string { return k.public().String() }

// PublicFile returns the text of the public key's file.
func (k Key) PublicFile() ([]byte, error) { return line(k.public().MarshalText()) }

func (k Key) public() minisign.PublicKey { return k.secret.Public().(minisign.PublicKey) }

// SecretFile returns the text of the secret key's file, encrypted unless the
// password is empty. Encrypting takes seconds and 1 GiB of memory, as decrypting
// does, to hold up who tries passwords.
func (k Key) SecretFile(password string) ([]byte, error) {
	if password == "" {
		return line(k.secret.MarshalText())
	}
	return line(minisign.EncryptKey(password, k.secret))
}

func line(text []byte, err error) ([]byte, error) { return append(text, '\n'), err }

// ErrPassword says that a key could not be decrypted.
var ErrPassword = errors.New("wrong password, or the file is damaged")

// ParseKey reads the text of a secret key's file. The password is asked for only
// if the key is encrypted. The error wraps ErrPassword when it is not the right one.
func ParseKey(text []byte, password func() (string, error)) (Key, error) {
	var k minisign.PrivateKey
	if !minisign.IsEncrypted(text) {
		if err := k.UnmarshalText(text); err != nil {
			return Key{}, fmt.Errorf("not a secret key of minisign: %w", err)
		}
	} else {
		p, err := password()
		if err != nil {
			return Key{}, err
		}
		if k, err = minisign.DecryptKey(p, text); err != nil {
			return Key{}, ErrPassword
		}
	}
	key := Key{k}
	// A file that was damaged could hold half of another key, and what it signs
	// would tell about the secret.
	if probe := key.statement([]byte("probe"), ""); !minisign.Verify(key.public(), []byte("probe"), minisig(probe)) {
		return Key{}, ErrPassword
	}
	return key, nil
}

// Sign adds the key's signature to a package that was encoded or decoded, in
// place of an earlier one. The comment says when.
func (k Key) Sign(x *ckm.Index, when time.Time) error {
	comment := fmt.Sprintf("timestamp:%d\tfile:%s\thashed", when.Unix(), ckm.StatementName(x.Name, x.Version))
	return add(x, k.statement(x.Statement(x.Digest()), comment))
}

// statement signs a statement.
func (k Key) statement(statement []byte, comment string) ckm.Signature {
	r := minisign.NewReader(bytes.NewReader(statement))
	io.Copy(io.Discard, r) // from memory, into the digest
	s, err := parseMinisig(r.SignWithComments(k.secret, comment, ""))
	if err != nil {
		panic(err) // it was made just now
	}
	return s
}

func add(x *ckm.Index, s ckm.Signature) (err error) {
	x.Signatures, err = ckm.AddSignature(x.Signatures, s)
	return err
}
