package cacheserver

import (
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// metrics of one server.
type metrics struct {
	mu          sync.Mutex // guards what follows
	requests    map[answered]int64
	kinds       map[string]*kindMetrics
	inFlight    int64
	connections int64
	failures    int64
}

// answered are the labels of a request that was.
type answered struct{ kind, status string }

// kindMetrics are about all requests of one kind.
type kindMetrics struct {
	bytes   int64
	seconds histogram
}

// secondsBounds are of the buckets of request_seconds, half a millisecond to two minutes.
var secondsBounds = [...]float64{0.0005, 0.002, 0.008, 0.032, 0.128, 0.512, 2.048, 8.192, 32.768, 131.072}

// histogram counts durations.
type histogram struct {
	counts [len(secondsBounds) + 1]int64 // of each bucket by itself, the last has no bound
	sum    float64
}

func (h *histogram) observe(seconds float64) {
	i, _ := slices.BinarySearch(secondsBounds[:], seconds) // a bound is in its bucket
	h.counts[i]++
	h.sum += seconds
}

func newMetrics() *metrics {
	return &metrics{requests: map[answered]int64{}, kinds: map[string]*kindMetrics{}}
}

// begin notes a request; the function that it gives notes its end. kind is one of few.
func (m *metrics) begin(kind string) func(status int, sent int64) {
	m.mu.Lock()
	m.inFlight++
	m.mu.Unlock()
	begun := time.Now()
	return func(status int, sent int64) {
		took := time.Since(begun).Seconds()
		m.mu.Lock()
		defer m.mu.Unlock()
		m.inFlight--
		m.requests[answered{kind, strconv.Itoa(status)}]++
		k := m.kinds[kind]
		if k == nil {
			k = new(kindMetrics)
			m.kinds[kind] = k
		}
		k.bytes += sent
		k.seconds.observe(took)
	}
}

// connection follows the states of connections.
func (m *metrics) connection(_ net.Conn, state http.ConnState) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch state {
	case http.StateNew:
		m.connections++
	case http.StateClosed, http.StateHijacked:
		m.connections--
	case http.StateActive, http.StateIdle:
	}
}

// failed notes a request for which the store could not be read.
func (m *metrics) failed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failures++
}

// answer sends them all.
func (m *metrics) answer(w *answerWriter, _ *http.Request) error {
	x := new(exposition)
	m.expose(x)
	x.process()
	w.Header().Set("Content-Type", expositionType)
	_, err := w.Write(x.Bytes())
	return err
}

func (m *metrics) expose(x *exposition) {
	m.mu.Lock()
	defer m.mu.Unlock()
	const prefix = "strata_cache_"
	x.family(prefix+"requests_total", counter, "Requests that were answered.")
	for a, n := range sorted(m.requests, func(a, b answered) int {
		return strings.Compare(a.kind+"\x00"+a.status, b.kind+"\x00"+b.status)
	}) {
		x.sample("", float64(n), "kind", a.kind, "status", a.status)
	}
	x.family(prefix+"sent_bytes_total", counter, "Bytes of the bodies of answers.")
	for kind, k := range sorted(m.kinds, strings.Compare) {
		x.sample("", float64(k.bytes), "kind", kind)
	}
	x.family(prefix+"request_seconds", "histogram", "Time from a request to the end of its answer.")
	for kind, k := range sorted(m.kinds, strings.Compare) {
		var n int64
		for i, bound := range secondsBounds {
			n += k.seconds.counts[i]
			x.sample("_bucket", float64(n), "kind", kind, "le", number(bound))
		}
		n += k.seconds.counts[len(secondsBounds)]
		x.sample("_bucket", float64(n), "kind", kind, "le", "+Inf")
		x.sample("_sum", k.seconds.sum, "kind", kind)
		x.sample("_count", float64(n), "kind", kind)
	}
	x.single(prefix+"requests_in_flight", gauge, "Requests that are under way.", float64(m.inFlight))
	x.single(prefix+"connections", gauge, "Connections that are open.", float64(m.connections))
	x.single(prefix+"store_failures_total", counter, "Requests for which the store could not be read.", float64(m.failures))
}
