package repo

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
)

// Environment variables that say who asks a web server for packages, beside the
// user name and password that a URL may hold. They are for all servers that are
// asked. Who has none of these may have a Kerberos ticket.
const (
	TokenVar      = "PRESTAGE_TOKEN"       // a bearer token
	ClientCertVar = "PRESTAGE_CLIENT_CERT" // the file of a certificate, PEM
	ClientKeyVar  = "PRESTAGE_CLIENT_KEY"  // the file of its key, PEM; the certificate's if it is not set
)

// login is who asks a web server.
type login struct {
	user    *url.Userinfo
	token   string
	private bool // nobody overhears what is sent to the server
}

// newLogin returns who asks the server at u. Nothing that could be used by others
// goes where they could overhear it.
func newLogin(u *url.URL) (login, error) {
	l := login{user: u.User, token: os.Getenv(TokenVar), private: u.Scheme == "https" || isLoopback(u.Hostname())}
	if l.private {
		return l, nil
	}
	if l.user != nil {
		return l, fmt.Errorf("a password would go to %s unencrypted; use https", u.Host)
	}
	if l.token != "" {
		return l, fmt.Errorf("the token of $%s would go to %s unencrypted; use https, or unset it", TokenVar, u.Host)
	}
	return l, nil
}

// sign says in a request who asks.
func (l login) sign(req *http.Request) {
	switch {
	case l.user != nil:
		password, _ := l.user.Password()
		req.SetBasicAuth(l.user.Username(), password)
	case l.token != "":
		req.Header.Set("Authorization", "Bearer "+l.token)
	}
}

// clientCertificate has t show the certificate of the environment, if there is
// one. It is read anew for each connection: it may be renewed meanwhile.
func clientCertificate(t *http.Transport) error {
	cert, key := os.Getenv(ClientCertVar), os.Getenv(ClientKeyVar)
	if cert == "" {
		return nil
	}
	if key == "" {
		key = cert
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("the certificate of $%s and $%s: %w", ClientCertVar, ClientKeyVar, err)
		}
		return &pair, nil
	}
	if _, err := load(); err != nil {
		return err
	}
	if t.TLSClientConfig == nil {
		t.TLSClientConfig = &tls.Config{}
	}
	t.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return nil
}

// isRefused reports whether the server ended the connection because of our
// certificate, or because there was none.
func isRefused(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error" && strings.Contains(op.Err.Error(), "certificate")
}
