package main

import (
	"fmt"
	"time"
)

// Of a meter: over how long it averages, and how often it looks.
const (
	meterWindow = 10 * time.Second
	meterStep   = 500 * time.Millisecond
)

// meter knows how fast something grows, by what it was in the last seconds. The
// zero value has seen nothing.
type meter struct {
	samples []sample // the newest one last
}

type sample struct {
	at time.Time
	n  uint64
}

// see notes how much there is.
func (m *meter) see(now time.Time, n uint64) {
	if k := len(m.samples); k > 0 && n < m.samples[k-1].n {
		m.samples = m.samples[:0] // something else is counted now
	}
	if k := len(m.samples); k > 1 && now.Sub(m.samples[k-2].at) < meterStep {
		m.samples[k-1] = sample{now, n}
	} else {
		m.samples = append(m.samples, sample{now, n})
	}
	for len(m.samples) > 2 && now.Sub(m.samples[1].at) >= meterWindow {
		m.samples = m.samples[1:]
	}
}

// rate is how much comes in a second, 0 if that is not known yet.
func (m *meter) rate() float64 {
	if len(m.samples) < 2 {
		return 0
	}
	first, last := m.samples[0], m.samples[len(m.samples)-1]
	span := last.at.Sub(first.at).Seconds()
	if span < meterStep.Seconds() {
		return 0
	}
	return float64(last.n-first.n) / span
}

// left is how long the rest will take at that rate; ok is false if nobody can
// say.
func (m *meter) left(rest uint64) (d time.Duration, ok bool) {
	const forever = 100 * 24 * time.Hour
	seconds := float64(rest) / m.rate()
	if !(seconds < forever.Seconds()) { // also for what is no number
		return 0, false
	}
	return time.Duration(seconds * float64(time.Second)), true
}

// shortDuration spells a time in at most two units.
func shortDuration(d time.Duration) string {
	s := int64(d.Round(time.Second) / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 24*3600:
		return fmt.Sprintf("%dh%02dm", s/3600, s/60%60)
	}
	return fmt.Sprintf("%dd%02dh", s/(24*3600), s/3600%24)
}
