package testenv

import (
	"sync"

	"github.com/strata-nix/strata/activity"
)

// Lines is an activity sink that keeps the lines that operations log. The zero value is ready.
type Lines struct {
	mu   sync.Mutex
	said []line
}

type line struct {
	level activity.Level
	text  string
}

var _ activity.Sink = (*Lines)(nil)

// Log implements activity.Sink.
func (l *Lines) Log(level activity.Level, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said = append(l.said, line{level, text})
}

// Start implements activity.Sink.
func (*Lines) Start(activity.Event) {}

// Stop implements activity.Sink.
func (*Lines) Stop(uint64) {}

// Result implements activity.Sink.
func (*Lines) Result(uint64, activity.ResultType, []activity.Field) {}

// All gives the lines that were logged by now.
func (l *Lines) All() []string { return l.UpTo(activity.Vomit) }

// UpTo gives those that somebody sees who wants to be told up to a level.
func (l *Lines) UpTo(level activity.Level) (out []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.said {
		if s.level <= level {
			out = append(out, s.text)
		}
	}
	return out
}
