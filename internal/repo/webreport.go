package repo

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"prestage/internal/event"
)

// maxAnswer is how much of the answer to a report is read.
const maxAnswer = 4 << 10

// Report sends a report to the server, once: who keeps events in a queue tries again
// later. It implements event.Reporter. The error wraps ErrNotFound if the server
// takes no events, and ErrUnavailable in any case but a report that is not valid.
func (r *Web) Report(ctx context.Context, report *event.Report) (ack event.Ack, err error) {
	to := r.base.String() + event.Path
	fail := func(format string, args ...any) (event.Ack, error) {
		return event.Ack{}, unavailable{fmt.Errorf("%s: %w", to, fmt.Errorf(format, args...))}
	}
	body, err := json.Marshal(report)
	if err != nil {
		return ack, err
	}
	if len(body) > event.MaxReport {
		return ack, fmt.Errorf("%w: it has %d bytes, and a server takes %d", event.ErrInvalid, len(body), event.MaxReport)
	}
	limited, cancel := context.WithTimeout(ctx, 2*r.Stall)
	defer cancel()
	req, err := http.NewRequestWithContext(limited, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return ack, err
	}
	req.Header.Set("User-Agent", "prestage")
	req.Header.Set("Content-Type", "application/json")
	// What comes twice counts once: net/http may send it again when a connection that
	// was kept turns out to have ended. The field itself is not sent.
	req.Header["Idempotency-Key"] = nil
	r.login.sign(req)
	resp, err := r.client.Do(req)
	if err != nil {
		return r.failedReport(ctx, to, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil && ctx.Err() != nil {
		return ack, ctx.Err()
	}
	said := firstLine(text)
	switch code := resp.StatusCode; {
	case resp.Request.Method != http.MethodPost:
		return fail("the server redirects reports to %s, where they cannot be sent; name it by that address", withoutUser(resp.Request.URL.String()))
	case code == http.StatusNotFound, code == http.StatusGone, code == http.StatusMethodNotAllowed, code == http.StatusNotImplemented:
		return fail("%w: this server takes no events (it answered %s); \"prestage serve --events\" does", ErrNotFound, resp.Status)
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return fail("the server refused the report: %s; check user name, password and rights, or the token", resp.Status)
	case isBusy(code):
		return fail("the server cannot take events now: %s", resp.Status)
	case code != http.StatusOK:
		return fail("the server does not take the report: %s (%q)", resp.Status, said)
	case err != nil:
		return fail("its answer was cut: %w", err)
	}
	if err := json.Unmarshal(text, &ack); err != nil || !bytes.Contains(text, []byte(`"number"`)) {
		return fail("the answer to a report is %q, which is none (an error page of the server?)", said)
	}
	last := uint64(0)
	if n := len(report.Events); n > 0 {
		last = report.Events[n-1].Number
	}
	if ack.Number > last {
		return fail("the server acknowledges events up to %d, and was sent those up to %d", ack.Number, last)
	}
	return ack, nil
}

// failedReport is the error for a report that got no answer.
func (r *Web) failedReport(ctx context.Context, to string, err error) (event.Ack, error) {
	if ctx.Err() != nil {
		return event.Ack{}, ctx.Err()
	}
	var fatal *fatalError
	if errors.As(err, &fatal) {
		return event.Ack{}, unavailable{fatal.err}
	}
	var failed *url.Error
	var certificate *tls.CertificateVerificationError
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("the server did not answer within %v", 2*r.Stall)
	} else if errors.As(err, &failed) && !errors.As(err, &certificate) {
		err = failed.Err // without the address, which comes before
	}
	return event.Ack{}, unavailable{fmt.Errorf("sending a report to %s: %w", to, err)}
}

// firstLine is what a server says, as far as it can be shown.
func firstLine(text []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	return line[:min(len(line), 200)]
}
