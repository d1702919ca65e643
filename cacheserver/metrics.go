package cacheserver

import (
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics of one server, in a registry of their own.
type metrics struct {
	requests    *prometheus.CounterVec   // by kind and status
	bytes       *prometheus.CounterVec   // by kind
	seconds     *prometheus.HistogramVec // by kind
	inFlight    prometheus.Gauge
	connections prometheus.Gauge
	failures    prometheus.Counter

	handler http.Handler
}

func newMetrics() *metrics {
	const space, sub = "strata", "cache"
	name := func(n, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: space, Subsystem: sub, Name: n, Help: help}
	}
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts(name("requests_total", "Requests that were answered.")), []string{"kind", "status"}),
		bytes:    prometheus.NewCounterVec(prometheus.CounterOpts(name("sent_bytes_total", "Bytes of the bodies of answers.")), []string{"kind"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: space, Subsystem: sub, Name: "request_seconds", Help: "Time from a request to the end of its answer.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 10),
		}, []string{"kind"}),
		inFlight:    prometheus.NewGauge(prometheus.GaugeOpts(name("requests_in_flight", "Requests that are under way."))),
		connections: prometheus.NewGauge(prometheus.GaugeOpts(name("connections", "Connections that are open."))),
		failures:    prometheus.NewCounter(prometheus.CounterOpts(name("store_failures_total", "Requests for which the store could not be read."))),
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(m.requests, m.bytes, m.seconds, m.inFlight, m.connections, m.failures,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.handler = promhttp.HandlerFor(reg, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
	return m
}

// begin notes a request; the function that it gives notes its end.
func (m *metrics) begin(kind string) func(status int, sent int64) {
	m.inFlight.Inc()
	begun := time.Now()
	return func(status int, sent int64) {
		m.inFlight.Dec()
		m.requests.WithLabelValues(kind, strconv.Itoa(status)).Inc()
		m.bytes.WithLabelValues(kind).Add(float64(sent))
		m.seconds.WithLabelValues(kind).Observe(time.Since(begun).Seconds())
	}
}

// connection follows the states of connections.
func (m *metrics) connection(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		m.connections.Inc()
	case http.StateClosed, http.StateHijacked:
		m.connections.Dec()
	case http.StateActive, http.StateIdle:
	}
}
