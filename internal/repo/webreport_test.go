package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"prestage/internal/event"
)

var _ event.Reporter = (*Web)(nil)

func aReport() *event.Report {
	now := time.Date(2026, 11, 28, 1, 2, 3, 0, time.UTC)
	return &event.Report{Machine: "m", Host: "h", Time: now, Events: []event.Event{{Number: 6, Time: now, Severity: event.Error}, {Number: 7, Time: now, Severity: event.Warning}}}
}

// reportTo sends a report to a server that answers with do.
func reportTo(t *testing.T, do http.HandlerFunc) (event.Ack, error) {
	t.Helper()
	return reportWithin(t, time.Minute, do)
}

// reportWithin is reportTo for a client that is as impatient as it says.
func reportWithin(t *testing.T, stall time.Duration, do http.HandlerFunc) (event.Ack, error) {
	t.Helper()
	s := httptest.NewServer(do)
	defer s.Close()
	u, err := url.Parse(s.URL + "/MEDVImages")
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("alice", "pw")
	w, err := NewWeb(u)
	if err != nil {
		t.Fatal(err)
	}
	w.Stall = stall
	return w.Report(t.Context(), aReport())
}

func TestReport(t *testing.T) {
	ack, err := reportTo(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, err := event.Parse(b)
		user, password, _ := r.BasicAuth()
		if r.Method != "POST" || r.URL.Path != "/MEDVImages/events" || r.Header.Get("Content-Type") != "application/json" || err != nil || len(got.Events) != 2 ||
			user != "alice" || password != "pw" || r.ContentLength != int64(len(b)) || r.Header.Values("Idempotency-Key") != nil {
			t.Errorf("%s %s %v\n%s", r.Method, r.URL, r.Header, b)
		}
		json.NewEncoder(w).Encode(event.Ack{Number: 7})
	})
	if err != nil || ack.Number != 7 {
		t.Errorf("%v %v", ack, err)
	}
	for _, c := range []struct {
		code     int
		body     string
		says     string
		notFound bool
	}{
		{200, `{"number":8}`, "acknowledges events up to 8", false},
		{200, `{}`, "which is none", false},
		{200, `{"number":-1}`, "which is none", false},
		{200, `<html>` + strings.Repeat("x", 1<<20), "which is none", false},
		{200, ``, "which is none", false},
		{204, ``, "does not take the report", false},
		{404, ``, "takes no events", true},
		{405, ``, "takes no events", true},
		{501, ``, "takes no events", true},
		{401, ``, "check user name", false},
		{403, ``, "check user name", false},
		{400, "400 Bad Request: the time\nx", `"400 Bad Request: the time"`, false},
		{413, ``, "does not take", false},
		{415, ``, "does not take", false},
		{500, ``, "cannot take events now", false},
		{503, ``, "cannot take events now", false},
	} {
		ack, err := reportTo(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.code)
			io.WriteString(w, c.body)
		})
		if err == nil || !strings.Contains(err.Error(), c.says) || !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrNotFound) != c.notFound || ack.Number != 0 {
			t.Errorf("%d %.20q: %v %v", c.code, c.body, ack, err)
		}
		if err != nil && (strings.Contains(err.Error(), "pw") || len(err.Error()) > 1000) {
			t.Errorf("%d %.20q: %v", c.code, c.body, err)
		}
	}
}

func TestReportTrouble(t *testing.T) {
	// A redirection would make a GET of it.
	_, err := reportTo(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
			return
		}
		fmt.Fprint(w, `{"number":7}`)
	})
	if err == nil || !strings.Contains(err.Error(), "redirects reports to") || !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	// One that keeps the method is followed.
	ack, err := reportTo(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/new/events" {
			http.Redirect(w, r, "/new/events", http.StatusPermanentRedirect)
			return
		}
		if b, _ := io.ReadAll(r.Body); len(b) == 0 {
			t.Error("nothing was sent")
		}
		fmt.Fprint(w, `{"number":7}`)
	})
	if err != nil || ack.Number != 7 {
		t.Errorf("%v %v", ack, err)
	}
	ended := make(chan struct{})
	_, err = reportWithin(t, time.Second, func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done() // until the client gives up
		close(ended)
	})
	<-ended
	if err == nil || !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "did not answer") {
		t.Error(err)
	}
	u, _ := url.Parse("http://127.0.0.1:1/")
	w, err := NewWeb(u)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Report(t.Context(), aReport()); !errors.Is(err, ErrUnavailable) || strings.Count(err.Error(), "127.0.0.1:1/") != 1 {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Report(ctx, aReport()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	big := aReport()
	for i := range 1000 {
		e := big.Events[1]
		e.Number, e.Description = uint64(i+8), strings.Repeat("<", 1000)
		big.Events = append(big.Events, e)
	}
	if _, err := w.Report(t.Context(), big); !errors.Is(err, event.ErrInvalid) {
		t.Error(err)
	}
}
