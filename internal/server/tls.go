package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"prestage/internal/server/reload"
)

// TLS says how connections are encrypted. The files are PEM, and read again when
// they have changed.
type TLS struct {
	Cert, Key string // the server's certificate, with those that lead to its root, and its key
	ClientCA  string // who signs the certificates of clients; "": clients are not asked for one
	Optional  bool   // clients may do without one
	// Revoked is which of these certificates do not count any more: revocation lists
	// (CRLs) that those in ClientCA have signed, PEM or DER. "": all count.
	Revoked string
}

// terms are what the files say of a connection.
type terms struct {
	config  *tls.Config
	revoked *revocations // nil: there are no lists
}

// config returns what connections are encrypted by. Who is refused for a certificate
// that is revoked is in the record of requests, if there is one.
func (t TLS) config(log, requests *slog.Logger) (*tls.Config, error) {
	paths := []string{t.Cert, t.Key}
	if t.ClientCA != "" {
		paths = append(paths, t.ClientCA)
		if t.Revoked != "" {
			paths = append(paths, t.Revoked)
		}
	}
	current, err := reload.New(log, t.parse, paths...)
	if err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	get := func(remote string) *tls.Config {
		now := current.Get()
		if now.revoked == nil {
			return now.config
		}
		now.revoked.tellOld(log, time.Now())
		c := now.config.Clone()
		c.VerifyConnection = func(state tls.ConnectionState) error {
			err := now.revoked.check(state, log)
			if err != nil && requests != nil {
				requests.LogAttrs(context.Background(), slog.LevelInfo, "refused", slog.String("remote", remote), slog.String("problem", err.Error()))
			}
			return err
		}
		return c
	}
	get("") // tells what is old already
	return &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		return get(hello.Conn.RemoteAddr().String()), nil
	}}, nil
}

func (t TLS) parse(files [][]byte) (now terms, err error) {
	pair, err := tls.X509KeyPair(files[0], files[1])
	if err != nil {
		return terms{}, err
	}
	c := &tls.Config{
		Certificates: []tls.Certificate{pair},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"},
	}
	if len(files) > 2 {
		c.ClientCAs = x509.NewCertPool()
		if !c.ClientCAs.AppendCertsFromPEM(files[2]) {
			return terms{}, errors.New("the file of those who sign clients' certificates holds none")
		}
		c.ClientAuth = tls.RequireAndVerifyClientCert
		if t.Optional {
			c.ClientAuth = tls.VerifyClientCertIfGiven
		}
		// Each connection is to be judged by the file as it is now.
		c.SessionTicketsDisabled = true
	}
	now.config = c
	if len(files) > 3 {
		lists, err := parseLists(files[3])
		if err != nil {
			return terms{}, err
		}
		if now.revoked, err = newRevocations(lists, parseSigners(files[2])); err != nil {
			return terms{}, err
		}
	}
	return now, nil
}
