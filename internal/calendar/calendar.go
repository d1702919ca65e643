// Package calendar reads times that come again, as people write them: systemd's
// calendar events ("daily", "Mon..Fri 03:00", "*-*-1,15 04:00 Europe/Berlin") and
// intervals ("6h", "2d").
//
// Of calendar events everything is there but fractions of seconds and years of two
// digits.
//
// Source: systemd.time(7), "Calendar Events".
package calendar

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Schedule says when something is to happen again. The zero value is never.
type Schedule struct {
	text  string
	every time.Duration // an interval, unless 0
	event *event
}

// ErrFormat is the cause of errors about texts.
var ErrFormat = errors.New("malformed schedule")

// Parse reads a schedule.
func Parse(text string) (Schedule, error) {
	s := Schedule{text: strings.TrimSpace(text)}
	if len(s.text) > 200 {
		return Schedule{}, fmt.Errorf("%w: it has %d characters", ErrFormat, len(text))
	}
	if d, err := ParseSpan(s.text); err == nil {
		if d < time.Second {
			return Schedule{}, fmt.Errorf("%w: '%s' is too often", ErrFormat, s.text)
		}
		s.every = d
		return s, nil
	}
	e, err := parseEvent(s.text)
	if err != nil {
		return Schedule{}, fmt.Errorf("%w: '%s': %w", ErrFormat, s.text, err)
	}
	s.event = e
	return s, nil
}

// String is what was read.
func (s Schedule) String() string { return s.text }

// Equal tells whether two were read from the same text.
func (s Schedule) Equal(o Schedule) bool { return s.text == o.text }

// IsZero tells whether it is never.
func (s Schedule) IsZero() bool { return s.every == 0 && s.event == nil }

// Next is the first time after t that is meant; zero if there is none. Times without
// a zone are in that of t.
func (s Schedule) Next(t time.Time) time.Time {
	switch {
	case s.every > 0:
		return t.Add(s.every)
	case s.event != nil:
		return s.event.next(t)
	}
	return time.Time{}
}

// units are those of a time span beyond Go's, longest names first.
var units = []struct {
	name string
	is   time.Duration
}{{"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour}}

// ParseSpan reads a span of time: a Go duration, which may begin with weeks and
// days ("2w", "1d12h"). It is not negative.
func ParseSpan(text string) (time.Duration, error) {
	fail := func() (time.Duration, error) {
		return 0, fmt.Errorf("%w: '%.40s' is no time span such as \"30d\" or \"12h\"", ErrFormat, text)
	}
	total, rest := time.Duration(0), text
	for _, u := range units {
		number, after, found := strings.Cut(rest, u.name)
		if !found {
			continue
		}
		var n int64
		for _, c := range []byte(number) {
			if c < '0' || c > '9' || n > 1e6 {
				return fail()
			}
			n = n*10 + int64(c-'0')
		}
		if number == "" || n > int64((1<<62)/u.is) {
			return fail()
		}
		total, rest = total+time.Duration(n)*u.is, after
	}
	if rest == "" && text != "" {
		return total, nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || rest[0] == '+' || rest[0] == '-' || total+d < 0 {
		return fail()
	}
	return total + d, nil
}
