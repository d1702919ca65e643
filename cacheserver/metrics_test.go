package cacheserver

import (
	"regexp"
	"testing"
)

const exposed = `# HELP strata_cache_requests_total Requests that were answered.
# TYPE strata_cache_requests_total counter
strata_cache_requests_total{kind="nar",status="200"} 2
strata_cache_requests_total{kind="nar",status="404"} 1
strata_cache_requests_total{kind="other",status="404"} 1
# HELP strata_cache_sent_bytes_total Bytes of the bodies of answers.
# TYPE strata_cache_sent_bytes_total counter
strata_cache_sent_bytes_total{kind="nar"} 3e+09
strata_cache_sent_bytes_total{kind="other"} 0
# HELP strata_cache_request_seconds Time from a request to the end of its answer.
# TYPE strata_cache_request_seconds histogram
strata_cache_request_seconds_bucket{kind="nar",le="0.0005"} 1
strata_cache_request_seconds_bucket{kind="nar",le="0.002"} 1
strata_cache_request_seconds_bucket{kind="nar",le="0.008"} 2
strata_cache_request_seconds_bucket{kind="nar",le="0.032"} 2
strata_cache_request_seconds_bucket{kind="nar",le="0.128"} 2
strata_cache_request_seconds_bucket{kind="nar",le="0.512"} 2
strata_cache_request_seconds_bucket{kind="nar",le="2.048"} 2
strata_cache_request_seconds_bucket{kind="nar",le="8.192"} 2
strata_cache_request_seconds_bucket{kind="nar",le="32.768"} 2
strata_cache_request_seconds_bucket{kind="nar",le="131.072"} 2
strata_cache_request_seconds_bucket{kind="nar",le="+Inf"} 3
strata_cache_request_seconds_sum{kind="nar"} 500.0045
strata_cache_request_seconds_count{kind="nar"} 3
# HELP strata_cache_requests_in_flight Requests that are under way.
# TYPE strata_cache_requests_in_flight gauge
strata_cache_requests_in_flight 1
# HELP strata_cache_connections Connections that are open.
# TYPE strata_cache_connections gauge
strata_cache_connections 0
# HELP strata_cache_store_failures_total Requests for which the store could not be read.
# TYPE strata_cache_store_failures_total counter
strata_cache_store_failures_total 1
`

func TestMetricsInTextFormat(t *testing.T) {
	m := newMetrics()
	m.begin("nar")
	for _, a := range []answered{{"other", "404"}, {"nar", "404"}, {"nar", "200"}, {"nar", "200"}} {
		m.requests[a]++
	}
	nar := &kindMetrics{bytes: 3e9}
	for _, s := range []float64{0.0005, 0.004, 500} { // a bound belongs to its bucket
		nar.seconds.observe(s)
	}
	m.kinds["nar"], m.kinds["other"] = nar, new(kindMetrics)
	m.failed()
	x := new(exposition)
	m.expose(x)
	others := regexp.MustCompile(`(?m)^strata_cache_request_seconds_\w+{kind="other".*\n`)
	if got := others.ReplaceAllString(x.String(), ""); got != exposed {
		t.Errorf("got\n%s", got)
	}
}

func TestMetricsOfTheProcess(t *testing.T) {
	x := new(exposition)
	x.process()
	for _, name := range []string{
		"go_goroutines", "go_memstats_heap_alloc_bytes", "process_cpu_seconds_total", "process_resident_memory_bytes",
		"process_virtual_memory_bytes", "process_open_fds", "process_max_fds",
	} {
		if !regexp.MustCompile(`(?m)^` + name + ` [1-9.e+0]*[1-9]`).MatchString(x.String()) {
			t.Errorf("no %s in\n%s", name, x.String())
		}
	}
}

func TestLabelsAreEscaped(t *testing.T) {
	x := &exposition{name: "n"}
	x.sample("", 1.5, "a", "\\ \" \n", "b", "é")
	if got, want := x.String(), `n{a="\\ \" \n",b="é"} 1.5`+"\n"; got != want {
		t.Errorf("got %s", got)
	}
}
