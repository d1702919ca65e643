package calendar

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// span is one part of a component: from, to, every so many. any has only step.
type span struct{ from, to, step int }

// component is a list of spans; nil matches everything.
type component []span

func (c component) has(v int) bool {
	for _, s := range c {
		if v >= s.from && v <= s.to && (v-s.from)%s.step == 0 {
			return true
		}
	}
	return c == nil
}

// event is a calendar event.
type event struct {
	weekdays             component // Monday is 0
	year, month, day     component
	fromEnd              bool // day counts from the end of the month, the last is 1
	hour, minute, second component
	zone                 *time.Location // nil: that of who asks
}

// shorthands are names of events.
var shorthands = map[string]string{
	"minutely":     "*-*-* *:*:00",
	"hourly":       "*-*-* *:00:00",
	"daily":        "*-*-* 00:00:00",
	"midnight":     "*-*-* 00:00:00",
	"monthly":      "*-*-01 00:00:00",
	"weekly":       "Mon *-*-* 00:00:00",
	"yearly":       "*-01-01 00:00:00",
	"annually":     "*-01-01 00:00:00",
	"quarterly":    "*-01,04,07,10-01 00:00:00",
	"semiannually": "*-01,07-01 00:00:00",
}

func parseEvent(text string) (*event, error) {
	words := strings.Fields(text)
	if len(words) == 0 {
		return nil, errors.New("it is empty")
	}
	e := &event{}
	if n := len(words); n > 1 && isZone(words[n-1]) {
		zone, err := time.LoadLocation(words[n-1])
		if err != nil {
			return nil, err
		}
		e.zone, words = zone, words[:n-1]
	}
	if long, ok := shorthands[strings.ToLower(words[0])]; ok && len(words) == 1 {
		words = strings.Fields(long)
	}
	steps := []struct {
		is    func(string) bool
		parse func(*event, string) error
	}{
		{isWeekdays, (*event).parseWeekdays},
		{isDate, (*event).parseDate},
		{isTime, (*event).parseTime},
	}
	exact := component{{0, 0, 1}}
	e.hour, e.minute, e.second = exact, exact, exact
	for _, s := range steps {
		if len(words) > 0 && s.is(words[0]) {
			if err := s.parse(e, words[0]); err != nil {
				return nil, err
			}
			words = words[1:]
		}
	}
	if len(words) > 0 {
		return nil, fmt.Errorf("'%s' is no weekday, date, time or time zone, or not at its place", words[0])
	}
	return e, nil
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

// isZone tells a time zone from a weekday.
func isZone(word string) bool {
	return isLetter(word[0]) && !isWeekdays(word) && shorthands[strings.ToLower(word)] == ""
}

func isWeekdays(word string) bool {
	first := strings.FieldsFunc(word, func(r rune) bool { return r == ',' || r == '.' || r == '-' })
	if !isLetter(word[0]) || len(first) == 0 {
		return false
	}
	_, err := weekday(first[0])
	return err == nil
}

func isTime(word string) bool { return strings.Contains(word, ":") }
func isDate(word string) bool { return strings.ContainsAny(word, "-~") && !isTime(word) }

var weekdays = []string{"monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"}

func weekday(text string) (int, error) {
	name := strings.ToLower(text)
	for i, w := range weekdays {
		if name == w || name == w[:3] {
			return i, nil
		}
	}
	return 0, fmt.Errorf("'%s' is no weekday", text)
}

func (e *event) parseWeekdays(text string) error {
	for part := range strings.SplitSeq(strings.TrimSuffix(text, ","), ",") {
		a, b, isRange := strings.Cut(strings.Replace(part, "-", "..", 1), "..")
		from, err := weekday(a)
		to := from
		if err == nil && isRange {
			to, err = weekday(b)
		}
		if err != nil {
			return err
		}
		if to < from {
			return fmt.Errorf("the weekdays '%s' go backwards", part)
		}
		e.weekdays = append(e.weekdays, span{from, to, 1})
	}
	return nil
}

func (e *event) parseDate(text string) (err error) {
	before, day, fromEnd := strings.Cut(text, "~")
	parts := strings.Split(before, "-")
	if fromEnd {
		parts = append(parts, day)
	}
	e.fromEnd = fromEnd
	switch len(parts) {
	case 2:
		parts = append([]string{"*"}, parts...)
	case 3:
	default:
		return fmt.Errorf("'%s' is no date", text)
	}
	if e.year, err = parseComponent(parts[0], 1970, 2199); err != nil {
		return err
	}
	if e.month, err = parseComponent(parts[1], 1, 12); err != nil {
		return err
	}
	if e.day, err = parseComponent(parts[2], 1, 31); err == nil && fromEnd {
		e.day, err = countDown(e.day, parts[2])
	}
	return err
}

// countDown turns repetitions round: those of days before the end of a month go
// towards it.
func countDown(c component, text string) (component, error) {
	if strings.Contains(text, "/") && strings.Contains(text, "..") {
		return nil, fmt.Errorf("'~%s' has both a range and a repetition", text)
	}
	var out component
	for i, part := range strings.Split(text, ",") {
		if i >= len(c) || !strings.Contains(part, "/") {
			out = append(out, c[min(i, len(c)):min(i+1, len(c))]...)
			continue
		}
		for day := c[i].from; day >= 1; day -= c[i].step {
			out = append(out, span{day, day, 1})
		}
	}
	return out, nil
}

func (e *event) parseTime(text string) (err error) {
	parts := strings.Split(text, ":")
	if len(parts) == 2 {
		parts = append(parts, "0")
	}
	if len(parts) != 3 {
		return fmt.Errorf("'%s' is no time", text)
	}
	if e.hour, err = parseComponent(parts[0], 0, 23); err != nil {
		return err
	}
	if e.minute, err = parseComponent(parts[1], 0, 59); err != nil {
		return err
	}
	e.second, err = parseComponent(parts[2], 0, 59)
	return err
}

// parseComponent reads "*", or a list of "a", "a..b", each perhaps with "/n".
func parseComponent(text string, least, most int) (component, error) {
	if text == "*" {
		return nil, nil
	}
	c := component{}
	for part := range strings.SplitSeq(text, ",") {
		body, every, repeats := strings.Cut(part, "/")
		a, b, isRange := strings.Cut(body, "..")
		s := span{step: 1}
		var err error
		if s.from, err = number(a, least, most); err != nil {
			return nil, err
		}
		switch {
		case isRange:
			if s.to, err = number(b, s.from, most); err != nil {
				return nil, err
			}
		case repeats:
			s.to = most
		default:
			s.to = s.from
		}
		if repeats {
			if s.step, err = number(every, 1, most); err != nil {
				return nil, err
			}
		}
		c = append(c, s)
	}
	return c, nil
}

func number(text string, least, most int) (int, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || int(n) < least || int(n) > most {
		return 0, fmt.Errorf("'%s' is no number from %d to %d", text, least, most)
	}
	return int(n), nil
}

// horizon is how far in the future an event is looked for: leap days that fall on
// a weekday are rarest, and come within 40 years even around 2100.
const horizon = 41 * 366

// next is the first time after t that matches.
func (e *event) next(t time.Time) time.Time {
	zone := e.zone
	if zone == nil {
		zone = t.Location()
	}
	local := t.In(zone)
	year, month, day := local.Date()
	for range horizon {
		if at := time.Date(year, month, day, 12, 0, 0, 0, zone); e.onDay(at) {
			if found := e.onThe(at, t); !found.IsZero() {
				return found
			}
		}
		day++
		year, month, day = time.Date(year, month, day, 12, 0, 0, 0, zone).Date()
	}
	return time.Time{}
}

// onDay tells whether a day matches.
func (e *event) onDay(t time.Time) bool {
	year, month, day := t.Date()
	if e.fromEnd {
		day = time.Date(year, month+1, 0, 12, 0, 0, 0, time.UTC).Day() - day + 1
	}
	return e.year.has(year) && e.month.has(int(month)) && e.day.has(day) && e.weekdays.has((int(t.Weekday())+6)%7)
}

// onThe gives the first time of a day that matches and is after t.
func (e *event) onThe(at, t time.Time) time.Time {
	year, month, day := at.Date()
	for h := range 24 {
		if !e.hour.has(h) {
			continue
		}
		if end := time.Date(year, month, day, h, 59, 59, 0, at.Location()); !end.After(t) {
			continue
		}
		for m := range 60 {
			if !e.minute.has(m) {
				continue
			}
			for s := range 60 {
				if !e.second.has(s) {
					continue
				}
				if found := time.Date(year, month, day, h, m, s, 0, at.Location()); found.After(t) {
					return found
				}
			}
		}
	}
	return time.Time{}
}
