package calendar

import (
	"errors"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/strata-nix/strata/internal/testenv"
)

const layout = "2006-01-02 15:04:05 MST"

// from is a Saturday.
var from = time.Date(2026, 11, 21, 18, 40, 0, 0, time.UTC)

var events = []struct {
	text string
	next []string
}{
	{"hourly", []string{"2026-11-21 19:00:00", "2026-11-21 20:00:00"}},
	{"daily", []string{"2026-11-22 00:00:00", "2026-11-23 00:00:00"}},
	{"weekly", []string{"2026-11-23 00:00:00", "2026-11-30 00:00:00"}},
	{"monthly", []string{"2026-12-01 00:00:00", "2027-01-01 00:00:00"}},
	{"quarterly", []string{"2027-01-01 00:00:00", "2027-04-01 00:00:00"}},
	{"Mon..Fri 03:00", []string{"2026-11-23 03:00:00", "2026-11-24 03:00:00"}},
	{"Mon-Fri", []string{"2026-11-23 00:00:00"}},
	{"Sat,Sun 18:40:01", []string{"2026-11-21 18:40:01", "2026-11-22 18:40:01"}},
	{"18:40", []string{"2026-11-22 18:40:00"}},
	{"*:0/15", []string{"2026-11-21 18:45:00", "2026-11-21 19:00:00"}},
	{"*-*-1,15 04:00", []string{"2026-12-01 04:00:00", "2026-12-15 04:00:00"}},
	{"2027-*-1..7 18:00:00 Europe/Berlin", []string{"2027-01-01 17:00:00", "2027-01-02 17:00:00"}},
	{"03:00 UTC", []string{"2026-11-22 03:00:00"}},
	{"Mon *-05~1..3", []string{"2027-05-31 00:00:00", "2028-05-29 00:00:00"}},
	{"*-*~07/1", []string{"2026-11-24 00:00:00", "2026-11-25 00:00:00"}},
	{"05-08", []string{"2027-05-08 00:00:00"}},
	{"Sat *-02-29", []string{"2048-02-29 00:00:00"}},
	{"12:05..30/5", []string{"2026-11-22 12:05:00", "2026-11-22 12:10:00"}},
	{"2020-01-01", nil},
}

func TestEvents(t *testing.T) {
	for _, c := range events {
		s, err := Parse(c.text)
		if err != nil {
			t.Errorf("%q: %v", c.text, err)
			continue
		}
		at := from
		for _, want := range c.next {
			at = s.Next(at)
			if got := at.UTC().Format(layout); got != want+" UTC" {
				t.Errorf("%q: %s, not %s", c.text, got, want)
			}
		}
		if len(c.next) == 0 && !s.Next(from).IsZero() {
			t.Errorf("%q comes again at %s", c.text, s.Next(from))
		}
	}
}

// systemd is who defines what the texts mean.
func TestEventsAsSystemd(t *testing.T) {
	analyze := testenv.Tool(t, "systemd-analyze")
	line := regexp.MustCompile(`(?m)^.*(?:Next elapse|\(in UTC\)|Iter\. #\d+): +\w{3} (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC)$`)
	for _, c := range events {
		cmd := exec.Command(analyze, "calendar", "--base-time="+from.Format("2006-01-02 15:04:05")+" UTC", "--iterations=2", c.text)
		cmd.Env = []string{"TZ=UTC", "LC_ALL=C"}
		out, err := cmd.CombinedOutput()
		if strings.Contains(string(out), "unrecognized option") {
			testenv.Skip(t, "systemd-analyze is too old to be told a time")
		}
		if err != nil {
			t.Errorf("%q: %v: %s", c.text, err, out)
			continue
		}
		s, err := Parse(c.text)
		if err != nil {
			t.Error(err)
			continue
		}
		at := from
		for _, m := range line.FindAllStringSubmatch(string(out), -1) {
			if at = s.Next(at); at.UTC().Format(layout) != m[1] {
				t.Errorf("%q: %s, and systemd says %s", c.text, at.UTC().Format(layout), m[1])
			}
		}
	}
}

func TestIntervals(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"6h": 6 * time.Hour, "30d": 720 * time.Hour, "1w2d": 216 * time.Hour, "1d12h30m": 36*time.Hour + 30*time.Minute, "90s": 90 * time.Second,
	} {
		s, err := Parse(text)
		if err != nil || s.Next(from).Sub(from) != want {
			t.Errorf("%q: %v, %v", text, s.Next(from).Sub(from), err)
		}
	}
}

func TestNonsense(t *testing.T) {
	for _, text := range []string{
		"", " ", "x", "1", "-1h", "+1h", "1ms", "0s", "d", "99999999w", "25:00", "*-13-01", "*-*-32", "Mon..Xyz", "Fri..Mon", "Mon Tue",
		"12:00 *-*-*", "*/2:00", "1..0:00", "12:00 Nowhere/Atall", "1-2-3-4", "12:00:00:00", "12:0/0", strings.Repeat("1,", 200) + ":00", "12:00,",
	} {
		if s, err := Parse(text); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v, %v", text, s, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		if next := s.Next(from); !next.IsZero() && !next.After(from) {
			t.Errorf("%q comes again at %s", text, next)
		}
		if again, err := Parse(s.String()); err != nil || !again.Next(from).Equal(s.Next(from)) {
			t.Errorf("%q is read differently the second time: %v", text, err)
		}
	})
}
