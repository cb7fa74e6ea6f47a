package sign

import (
	"fmt"
	"strings"

	"prestage/ckm"
)

// Kinds of texts that are signed besides packages, whose statements begin with
// "prestage package".
const policyStatement = "prestage policy\nserial %d\ndigest %s\n"

// SignPolicy signs a policy of which this is the serial number and the digest, and
// returns a signature file of minisign.
func (k Key) SignPolicy(serial uint64, digest ckm.Digest, when int64) string {
	comment := fmt.Sprintf("timestamp:%d\tpolicy:%d\thashed", when, serial)
	return string(minisig(k.statement(fmt.Appendf(nil, policyStatement, serial, digest), comment)))
}

// CheckPolicy reports whether one of the signatures of a policy counts. The error
// wraps ErrUntrusted.
func (t Trust) CheckPolicy(serial uint64, digest ckm.Digest, signatures []string) error {
	var unknown []string
	for _, text := range signatures {
		s, err := parseMinisig([]byte(text))
		if err != nil {
			return fmt.Errorf("policy %d: %w", serial, err)
		}
		switch t.verdict(fmt.Appendf(nil, policyStatement, serial, digest), s) {
		case Trusted:
			return nil
		case Wrong:
			return fmt.Errorf("policy %d is %w: the signature that names the key %s is wrong", serial, ErrUntrusted, s.Key)
		case Unknown:
			unknown = append(unknown, s.Key.String())
		}
	}
	if len(unknown) > 0 {
		return fmt.Errorf("policy %d is %w: it is signed by %s", serial, ErrUntrusted, strings.Join(unknown, " and "))
	}
	return fmt.Errorf(`policy %d is %w: it has no signature; sign it ("prestage policy sign")`, serial, ErrUntrusted)
}

// KeyOf returns the ID of the key that a signature file of minisign names.
func KeyOf(signature string) (ckm.KeyID, error) {
	s, err := parseMinisig([]byte(signature))
	return s.Key, err
}
