package server

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"

	"prestage/internal/server/reload"
)

// TLS says how connections are encrypted. The files are PEM, and read again when
// they have changed.
type TLS struct {
	Cert, Key string // the server's certificate, with those that lead to its root, and its key
	ClientCA  string // who signs the certificates of clients; "": clients are not asked for one
	Optional  bool   // clients may do without one
}

// config returns what connections are encrypted by.
func (t TLS) config(log *slog.Logger) (*tls.Config, error) {
	paths := []string{t.Cert, t.Key}
	if t.ClientCA != "" {
		paths = append(paths, t.ClientCA)
	}
	current, err := reload.New(log, t.parse, paths...)
	if err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	return &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return current.Get(), nil }}, nil
}

func (t TLS) parse(pem [][]byte) (*tls.Config, error) {
	pair, err := tls.X509KeyPair(pem[0], pem[1])
	if err != nil {
		return nil, err
	}
	c := &tls.Config{
		Certificates: []tls.Certificate{pair},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"},
	}
	if len(pem) > 2 {
		c.ClientCAs = x509.NewCertPool()
		if !c.ClientCAs.AppendCertsFromPEM(pem[2]) {
			return nil, errors.New("the file of those who sign clients' certificates holds none")
		}
		c.ClientAuth = tls.RequireAndVerifyClientCert
		if t.Optional {
			c.ClientAuth = tls.VerifyClientCertIfGiven
		}
		// Each connection is to be judged by the file as it is now.
		c.SessionTicketsDisabled = true
	}
	return c, nil
}
