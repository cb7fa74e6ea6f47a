package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"prestage/internal/server/upload"
)

// What requests are for, in metrics.
const (
	forCatalog = "catalog"
	forPolicy  = "policy"
	forListing = "listing"
	forPackage = "package"
	forEvents  = "events"
	forUpload  = "upload"
	forRemoval = "removal"
	forOther   = "other"
)

// metrics are what Prometheus can ask for.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	received prometheus.Counter
	seconds  *prometheus.HistogramVec
	running  prometheus.Gauge
}

func newMetrics(packages func() float64) *metrics {
	name := func(s, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "prestage", Subsystem: "server", Name: s, Help: help}
	}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts(name("requests_total", "Requests that were answered.")), []string{"for", "code"}),
		bytes:    prometheus.NewCounterVec(prometheus.CounterOpts(name("sent_bytes_total", "Bytes of answers, without their headers.")), []string{"for"}),
		received: prometheus.NewCounter(prometheus.CounterOpts(name("received_bytes_total", "Bytes of packages that were sent to the server."))),
		running:  prometheus.NewGauge(prometheus.GaugeOpts(name("requests_running", "Requests that are being answered."))),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "prestage", Subsystem: "server", Name: "request_seconds",
			Help: "How long answers took.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 11)}, []string{"for"}),
	}
	m.registry.MustRegister(m.requests, m.bytes, m.received, m.running, m.seconds,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts(name("packages", "Packages that can be seen.")), packages),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// countUploads adds the unfinished uploads.
func (m *metrics) countUploads(s *upload.Store) {
	gauge := func(name, help string, value func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "prestage", Subsystem: "server", Name: name, Help: help}, value))
	}
	gauge("uploads", "Unfinished uploads.", func() float64 { n, _ := s.Unfinished(); return float64(n) })
	gauge("uploads_bytes", "Bytes that unfinished uploads have.", func() float64 { _, n := s.Unfinished(); return float64(n) })
}

// countConnections adds the connections of a listener.
func (m *metrics) countConnections(l *listener) {
	gauge := func(name, help string, value func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "prestage", Subsystem: "server", Name: name, Help: help}, value))
	}
	gauge("connections", "Connections within the limits.", func() float64 { return l.counts(&l.total) })
	gauge("connections_excess", "Connections that are only told that they are too many.", func() float64 { return l.counts(&l.over) })
}

// record keeps what became of a request.
func (s *Server) record(w *answer, r *http.Request, begun time.Time) {
	took := time.Since(begun)
	if w.code == 0 {
		w.code = http.StatusOK
	}
	s.metrics.requests.WithLabelValues(w.purpose, strconv.Itoa(w.code)).Inc()
	s.metrics.bytes.WithLabelValues(w.purpose).Add(float64(w.bytes))
	s.metrics.received.Add(float64(w.received))
	s.metrics.seconds.WithLabelValues(w.purpose).Observe(took.Seconds())
	if s.config.Requests == nil {
		return
	}
	attrs := []slog.Attr{
		slog.String("remote", w.remote), slog.String("reader", string(w.reader)), slog.String("method", r.Method),
		slog.String("path", r.URL.Path), slog.String("protocol", r.Proto), slog.Int("status", w.code), slog.Int64("bytes", w.bytes),
		slog.Float64("seconds", took.Seconds()),
	}
	if w.proxy != "" {
		attrs = append(attrs, slog.String("proxy", w.proxy))
	}
	if w.asked != "" {
		attrs = append(attrs, slog.String("range", w.asked))
	}
	if w.received > 0 {
		attrs = append(attrs, slog.Int64("received", w.received))
	}
	if w.problem != nil {
		attrs = append(attrs, slog.String("problem", w.problem.Error()))
	}
	s.config.Requests.LogAttrs(context.WithoutCancel(r.Context()), slog.LevelInfo, "answered", attrs...)
}

// serveMetrics answers those who watch over the server, on a listener of their own.
func (s *Server) serveMetrics(l net.Listener) (stop func()) {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET "+healthPath, func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET "+readyPath, func(w http.ResponseWriter, r *http.Request) { s.sayReady(r.Context(), w) })
	web := &http.Server{Handler: mux, ReadHeaderTimeout: s.patience.header, ReadTimeout: s.patience.header, WriteTimeout: s.patience.stall,
		IdleTimeout: s.patience.idle, MaxHeaderBytes: headerBytes, ErrorLog: silent}
	go func() {
		if err := web.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.config.Log.Error("metrics are not served any more: " + err.Error())
		}
	}()
	return func() { web.Close() }
}

// packages counts those that can be seen, -1 if that is not known.
func (s *Server) packages() float64 {
	entries, err := s.shelf.list(context.Background())
	if err != nil {
		return -1
	}
	return float64(len(entries))
}
