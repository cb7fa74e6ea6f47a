package server

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
)

// parseLists reads a file of revocation lists, which are PEM, or DER one after
// another.
func parseLists(b []byte) (lists []*x509.RevocationList, err error) {
	parts, err := splitLists(b)
	if err != nil {
		return nil, err
	}
	for _, der := range parts {
		l, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, fmt.Errorf("the file of revocation lists: %w", err)
		}
		lists = append(lists, l)
	}
	if len(lists) == 0 {
		return nil, errors.New("the file of revocation lists holds none")
	}
	return lists, nil
}

func splitLists(b []byte) (parts [][]byte, err error) {
	begun := bytes.Count(b, []byte("-----BEGIN "))
	if begun == 0 {
		for len(b) > 0 {
			var part asn1.RawValue
			if b, err = asn1.Unmarshal(b, &part); err != nil {
				return nil, fmt.Errorf("the file of revocation lists is neither PEM nor DER: %w", err)
			}
			parts = append(parts, part.FullBytes)
		}
		return parts, nil
	}
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "X509 CRL" {
			return nil, fmt.Errorf("the file of revocation lists holds a %s", block.Type)
		}
		parts = append(parts, block.Bytes)
	}
	if len(parts) != begun { // pem.Decode passes over what it cannot read
		return nil, errors.New("the file of revocation lists is damaged, or cut short")
	}
	return parts, nil
}

// What the extensions of a list are called (RFC 5280, 5.2).
var (
	distributionPoint = asn1.ObjectIdentifier{2, 5, 29, 28}
	deltaList         = asn1.ObjectIdentifier{2, 5, 29, 27}
)

// checkList checks that one of the signers has signed a list, and that the list says
// of its own certificates that they are revoked, and nothing else. The error follows
// the name of the list.
func checkList(l *x509.RevocationList, signers []*x509.Certificate) error {
	err := errors.New("is signed by none of those who sign clients' certificates: add its signer to the file of --client-ca, or take the list out")
	for _, c := range signers {
		if !bytes.Equal(c.RawSubject, l.RawIssuer) {
			continue
		}
		bad := l.CheckSignatureFrom(c)
		if bad == nil {
			err = nil
			break
		}
		err = fmt.Errorf("is not signed by the signer of that name: %w", bad)
	}
	if err != nil {
		return err
	}
	for _, e := range l.Extensions {
		switch {
		case e.Id.Equal(distributionPoint):
			if err := checkPoint(e.Value); err != nil {
				return err
			}
		case e.Id.Equal(deltaList):
			return errors.New("has only what has changed since another one; use the complete list")
		case e.Critical:
			return fmt.Errorf("has an extension that is not understood, %v; use a list without it", e.Id)
		}
	}
	for _, entry := range l.RevokedCertificateEntries {
		for _, e := range entry.Extensions {
			if e.Critical { // such as one that names another signer
				return fmt.Errorf("has an entry with an extension that is not understood, %v; use a list without it", e.Id)
			}
		}
	}
	return nil
}

// checkPoint checks what a list says of the certificates that it is for. That it is
// for some only does no harm: the others are not revoked by it.
func checkPoint(value []byte) error {
	var point struct {
		Name       asn1.RawValue  `asn1:"optional,tag:0"`
		Users      bool           `asn1:"optional,tag:1"`
		CAs        bool           `asn1:"optional,tag:2"`
		Reasons    asn1.BitString `asn1:"optional,tag:3"`
		Indirect   bool           `asn1:"optional,tag:4"`
		Attributes bool           `asn1:"optional,tag:5"`
	}
	if rest, err := asn1.Unmarshal(value, &point); err != nil || len(rest) > 0 {
		return errors.New("has a distribution point that cannot be read; use a list without it")
	}
	if point.Indirect || point.Attributes {
		return errors.New("is for certificates of other signers, or for what are none; use the list of its signer alone")
	}
	return nil
}

// parseSigners returns the certificates of a file of PEM.
func parseSigners(b []byte) (signers []*x509.Certificate) {
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == "CERTIFICATE" {
			signers = append(signers, c)
		}
	}
	return signers
}
