// Package access is who asks a server, and which images they may read and write.
package access

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"prestage/internal/server/reload"
)

// ErrUnknown says that a request does not tell who makes it, or not so that it
// can be believed.
var ErrUnknown = errors.New("unknown reader")

// Config says how readers are known, and what they may read. The files are read
// again when they have changed.
type Config struct {
	Users        string // names and bcrypt hashes of passwords, as htpasswd -B writes them
	Tokens       string // names and SHA-256 digests of bearer tokens
	Certificates bool   // clients show certificates, which TLS has verified
	Keytab       string // keys of Kerberos services, HTTP/NAME
	Rights       string // which readers may read and write which images; "": who is known may read all, and nobody write
}

// Secrets reports whether clients send what somebody who overhears it could use.
func (c Config) Secrets() bool { return c.Users != "" || c.Tokens != "" }

// asks reports whether readers must be known.
func (c Config) asks() bool { return c.Secrets() || c.Certificates || c.Keytab != "" }

// Reader is who asks: a kind and a name such as user:alice, or Nobody.
type Reader string

// Nobody is a reader who has not said who it is.
const Nobody Reader = ""

// Kinds of readers.
const (
	kindUser        = "user:"
	kindToken       = "token:"
	kindCertificate = "certificate:"
	kindKerberos    = "kerberos:"
)

var kinds = []string{kindUser, kindToken, kindCertificate, kindKerberos}

// Gate knows readers and their rights.
type Gate struct {
	config  Config
	users   *reload.Value[users]
	tokens  *reload.Value[tokens]
	keytab  *reload.Value[negotiator]
	rights  *reload.Value[rights]
	proven  proven
	guesses *guesses
}

// New returns the gate that c asks for, after reading its files.
func New(c Config, log *slog.Logger) (g *Gate, err error) {
	g = &Gate{config: c, proven: newProven()}
	g.guesses = newGuesses(g.proven.code)
	if g.users, err = open(log, "users", c.Users, parseUsers); err != nil {
		return nil, err
	}
	if g.tokens, err = open(log, "tokens", c.Tokens, parseTokens); err != nil {
		return nil, err
	}
	if g.keytab, err = open(log, "keytab", c.Keytab, parseKeytab); err != nil {
		return nil, err
	}
	if g.rights, err = open(log, "rights", c.Rights, parseRights); err != nil {
		return nil, err
	}
	return g, nil
}

// open returns what a file says, nil if there is no path.
func open[T any](log *slog.Logger, what, path string, parse func([]byte) (T, error)) (*reload.Value[T], error) {
	if path == "" {
		return nil, nil
	}
	v, err := reload.New(log, func(contents [][]byte) (T, error) { return parse(contents[0]) }, path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return v, nil
}

// Identify returns who makes a request, from a client that is told from others by
// its address. Who says nothing is Nobody; the error wraps ErrUnknown when what was
// said is not believed, and is a GuessError when it was not looked at.
func (g *Gate) Identify(r *http.Request, client string) (Reader, error) {
	scheme, rest, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	switch {
	case strings.EqualFold(scheme, "Basic") && g.users != nil:
		return g.basic(r, client)
	case strings.EqualFold(scheme, "Bearer") && g.tokens != nil:
		return g.tokens.Get().reader(strings.TrimSpace(rest))
	case strings.EqualFold(scheme, "Negotiate") && g.keytab != nil:
		return g.keytab.Get().reader(r)
	case scheme != "" && g.config.asks():
		return Nobody, fmt.Errorf("%w: credentials of the kind %.20q are not taken here", ErrUnknown, scheme)
	case g.config.Certificates && r.TLS != nil && len(r.TLS.VerifiedChains) > 0:
		return certified(r.TLS.VerifiedChains[0][0])
	}
	return Nobody, nil
}

// Challenge says in the header of an answer how clients can tell who they are. It
// reports false when there is no way that HTTP has words for.
func (g *Gate) Challenge(h http.Header) bool {
	for _, c := range []struct {
		taken bool
		text  string
	}{
		{g.keytab != nil, "Negotiate"},
		{g.users != nil, `Basic realm="MEDVImages", charset="UTF-8"`},
		{g.tokens != nil, `Bearer realm="MEDVImages"`},
	} {
		if c.taken {
			h.Add("WWW-Authenticate", c.text)
		}
	}
	return len(h.Values("WWW-Authenticate")) > 0
}

// Open reports whether everybody may read everything.
func (g *Gate) Open() bool { return !g.config.asks() && g.rights == nil }

// MayRead reports whether a reader may read an image, of whatever version.
func (g *Gate) MayRead(reader Reader, image string) bool {
	if g.rights != nil {
		return g.rights.Get().allow(reader, image)
	}
	return reader != Nobody || !g.config.asks()
}

// MayWrite reports whether somebody may write an image, of whatever version: put it
// there, or remove it. Nobody may whom the rights do not name as a writer.
func (g *Gate) MayWrite(writer Reader, image string) bool {
	return g.rights != nil && g.rights.Get().allowWriting(writer, image)
}

// Writers reports whether somebody may write something.
func (g *Gate) Writers() bool { return g.rights != nil && g.rights.Get().writers }

// MayLook reports whether a reader may see the list of those images that it may
// read.
func (g *Gate) MayLook(reader Reader) bool {
	if g.rights != nil && reader == Nobody {
		return g.rights.Get().anyone
	}
	return reader != Nobody || !g.config.asks()
}

// Hides reports whether there are images that somebody who is known may read, and
// Nobody not: who says who it is may see more. It does not matter which images there
// are, or the answer would tell.
func (g *Gate) Hides() bool {
	if g.rights != nil {
		return g.rights.Get().hides
	}
	return g.config.asks()
}

// basic knows who has sent a user name and a password.
func (g *Gate) basic(r *http.Request, client string) (Reader, error) {
	name, password, ok := r.BasicAuth()
	if !ok {
		return Nobody, fmt.Errorf("%w: the user name and password cannot be read", ErrUnknown)
	}
	users := g.users.Get()
	ok, err := g.guesses.try(r.Context(), client, name,
		func() bool { return g.proven.knows(users, name, password) },
		func() (bool, error) { return g.proven.check(r.Context(), users, name, password) })
	switch {
	case err != nil:
		return Nobody, err
	case !ok:
		return Nobody, fmt.Errorf("%w: wrong password, or no user %.50q", ErrUnknown, name)
	}
	return Reader(kindUser + name), nil
}

// lines calls do for the lines of a file that are not empty nor a comment, split
// at their first colon.
func lines(b []byte, do func(name, rest string) error) error {
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, rest, ok := strings.Cut(line, ":")
		if !ok || name == "" {
			return fmt.Errorf("line %d is not NAME:…", n)
		}
		if err := do(name, rest); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	return nil
}

// interrupted is ctx's error, which is not the reader's fault.
func interrupted(ctx context.Context) error { return fmt.Errorf("checking a password: %w", ctx.Err()) }
