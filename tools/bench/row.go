package main

import (
	"context"
	"slices"
)

// side is one of the two that are compared.
type side int

const (
	stock side = iota
	ours
)

func (s side) String() string { return [...]string{"stock", "strata"}[s] }

// unit is what a row's value is in.
type unit string

const (
	seconds   unit = "s"
	millis    unit = "ms"
	perSecond unit = "/s"
	mebibytes unit = "MiB"
)

// sample is one measurement of one side.
type sample struct {
	Value float64 `json:"value"`         // in the row's unit
	CPU   float64 `json:"cpu,omitempty"` // seconds, user and system
	// Memory is in MiB: the peak RSS of the largest process of a command, or the
	// PSS of all processes of a daemon.
	Memory float64 `json:"memory,omitempty"`
	P50    float64 `json:"p50,omitempty"` // µs
	P99    float64 `json:"p99,omitempty"` // µs

	answer string // what must be equal on both sides
}

// row is one line of the table.
type row struct {
	name   string
	family string // which of the families it is of
	what   string // for people
	unit   unit
	// target is how many times as fast as stock Nix, or how much smaller, strata
	// is to be; 0: none. limit is what the value is to be under, in the row's unit,
	// and memory the same for memory in MiB.
	target, limit, memory float64
	tail                  bool // p99 is to be no worse than that of stock Nix

	needs []need
	long  bool // one run of stock Nix takes more than a minute
	pairs int  // at most so many; 0: as many as asked for

	// curve is which curve the row is a point of, and at where on it.
	curve string
	at    int

	run func(ctx context.Context, w *world, s side) (sample, error)
	// alone: stock Nix has nothing like it; run is called for ours only.
	alone bool
}

// fewPairs is for rows that are there to compare others with.
const fewPairs = 3

// howOften is how many pairs are run.
func (r row) howOften(o options) int {
	pairs := o.Pairs
	if r.long {
		pairs = o.LongPairs
	}
	if r.pairs > 0 {
		pairs = min(pairs, r.pairs)
	}
	if r.wanted() == "" {
		pairs = min(pairs, fewPairs)
	}
	return pairs
}

// families are the rows in the order of the table.
var families = []struct {
	name string
	rows func(options) []row
}{
	{"Daemon", daemonRows},
	{"Databases", databaseRows},
	{"Overlay", overlayRows},
	{"Copies", copyRows},
	{"Builds", buildRows},
	{"Garbage collection", gcRows},
	{"Check", checkRows},
	{"Optimise", optimiseRows},
	{"NAR", narRows},
	{"Lazy lowers", lazyRows},
}

// allRows are the rows of all families in the order of the table.
func allRows(o options) []row {
	var rows []row
	for _, f := range families {
		for _, r := range f.rows(o) {
			r.family = f.name
			rows = append(rows, r)
		}
	}
	return rows
}

// rowsNamed are the rows of these names, in the order of the names.
func rowsNamed(o options, names []string) []row {
	all := map[string]row{}
	for _, r := range allRows(o) {
		all[r.name] = r
	}
	rows := make([]row, len(names))
	for i, name := range names {
		rows[i] = all[name]
	}
	return rows
}

// higher tells whether a larger value is the better one.
func (u unit) higher() bool { return u == perSecond }

// advantage is how many times as good as stock ours is.
func (u unit) advantage(stock, ours float64) float64 {
	if u.higher() {
		stock, ours = ours, stock
	}
	if ours == 0 {
		return 0
	}
	return stock / ours
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

func cpuOf(s sample) float64    { return s.CPU }
func memoryOf(s sample) float64 { return s.Memory }
func valueOf(s sample) float64  { return s.Value }
