package access

import (
	"fmt"
	"net/http"

	"github.com/jcmturner/goidentity/v6"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/jcmturner/gokrb5/v8/service"
	"github.com/jcmturner/gokrb5/v8/spnego"
)

// negotiator knows readers by their Kerberos tickets.
type negotiator struct{ keys *keytab.Keytab }

func parseKeytab(b []byte) (negotiator, error) {
	keys := keytab.New()
	if err := guarded(func() error { return keys.Unmarshal(b) }); err != nil {
		return negotiator{}, fmt.Errorf("it is not a keytab: %w", err)
	}
	if len(keys.Entries) == 0 {
		return negotiator{}, fmt.Errorf("it has no keys; add some with ktutil or kadmin")
	}
	return negotiator{keys}, nil
}

// reader returns who has sent a ticket for us. A ticket counts once: clients send
// another one with each request.
func (n negotiator) reader(r *http.Request) (reader Reader, err error) {
	known := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if id := goidentity.FromHTTPRequestContext(r); id != nil && id.Authenticated() {
			reader = Reader(kindKerberos + id.UserName() + "@" + id.Domain())
		}
	})
	err = guarded(func() error {
		// Who a user is in Windows does not matter here.
		spnego.SPNEGOKRB5Authenticate(known, n.keys, service.DecodePAC(false)).ServeHTTP(deaf{http.Header{}}, r)
		return nil
	})
	if err != nil || reader == Nobody {
		return Nobody, fmt.Errorf("%w: the Kerberos ticket is not accepted", ErrUnknown)
	}
	return reader, nil
}

// guarded does something with a library that trusts its input more than we do.
func guarded(do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("nonsense: %v", p)
		}
	}()
	return do()
}

// deaf is a ResponseWriter that nobody hears: what is answered is ours to say.
type deaf struct{ header http.Header }

func (d deaf) Header() http.Header         { return d.header }
func (d deaf) Write(p []byte) (int, error) { return len(p), nil }
func (d deaf) WriteHeader(int)             {}
