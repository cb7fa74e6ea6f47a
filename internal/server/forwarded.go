package server

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
)

// Proxies are the networks of those who are believed when they say for whom they
// ask: proxies before the server.
type Proxies []netip.Prefix

// ParseProxy reads an address, or a network such as 10.0.0.0/8.
func ParseProxy(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || p.Addr().Is4In6():
		return p, fmt.Errorf("%q: use an address, or a network such as 10.0.0.0/8", s)
	case p != p.Masked(): // which of them is meant?
		return p, fmt.Errorf("%q: use %s, which is a network, or %s, which is an address", s, p.Masked(), p.Addr())
	}
	return p, nil
}

func (p Proxies) has(a netip.Addr) bool {
	for _, network := range p {
		if network.Contains(a) {
			return true
		}
	}
	return false
}

// trusts reports whether a connection from an address and port is a proxy's.
func (p Proxies) trusts(remote string) bool {
	a, ok := addressOf(remote)
	return ok && p.has(a)
}

// remoteOf returns from where a request comes: the address and port of its
// connection or, if a proxy has made that, the address for which it asks, and then
// the proxy's, too.
//
// That is the last one which is no proxy's: what stands before it, the client itself
// may have sent. A proxy that says nothing sensible asks for itself.
func (p Proxies) remoteOf(r *http.Request) (remote, proxy string) {
	if !p.trusts(r.RemoteAddr) {
		return r.RemoteAddr, ""
	}
	list, read := r.Header.Values("X-Forwarded-For"), nodeOf
	if len(list) == 0 {
		list, read = r.Header.Values("Forwarded"), forwardedFor
	}
	if a, ok := p.lastOther(strings.Join(list, ","), read); ok {
		return a.String(), r.RemoteAddr
	}
	return r.RemoteAddr, ""
}

// lastOther returns the last address of a list that is no proxy's.
func (p Proxies) lastOther(list string, read func(element string) (netip.Addr, bool)) (netip.Addr, bool) {
	for more := true; more; {
		var element string
		list, element, more = cutLast(list, ',')
		if a, ok := read(strings.Trim(element, " \t")); !ok || !p.has(a) {
			return a, ok
		}
	}
	return netip.Addr{}, false
}

// cutLast cuts a text at the last separator that is not quoted. It goes from the
// end: nothing that a client has sent changes how that is read which a proxy has
// added.
func cutLast(s string, separator byte) (before, after string, found bool) {
	quoted := false
	for i := len(s) - 1; i >= 0; i-- {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case s[i] == separator && !quoted:
			return s[:i], s[i+1:], true
		}
	}
	return "", s, false
}

// forwardedFor reads an element of the field Forwarded (RFC 7239, 4).
func forwardedFor(element string) (a netip.Addr, ok bool) {
	for more := true; more; {
		var pair string
		element, pair, more = cutLast(element, ';')
		if pair = strings.Trim(pair, " \t"); pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
			if value = value[1 : n-1]; strings.ContainsAny(value, `"\`) { // no address has these
				return a, false
			}
		} else if !isToken(value) {
			return a, false
		}
		switch {
		case !isToken(name) || ok && strings.EqualFold(name, "for"): // twice
			return a, false
		case strings.EqualFold(name, "for"):
			if a, ok = nodeOf(value); !ok {
				return a, false
			}
		}
	}
	return a, ok
}

// isToken reports whether a text is a token (RFC 9110, 5.6.2).
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
}

// nodeOf reads an address, which may have brackets if it is one of IPv6, and a port
// after it.
func nodeOf(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		if strings.HasSuffix(s, "]") {
			s += ":0"
		}
		var with netip.AddrPort
		with, err = netip.ParseAddrPort(s)
		a = with.Addr()
	}
	if err != nil || a.Zone() != "" || a.IsUnspecified() {
		return netip.Addr{}, false
	}
	return a.Unmap(), true
}
