package main

import (
	"io"
	"strings"
	"sync"

	"github.com/strata-nix/strata/activity"
)

// buildLines writes what builders print, and errors, as lines. It is what a client
// of the older protocol hears of a build, by way of ssh.
type buildLines struct {
	mu  sync.Mutex
	out io.Writer
}

func newBuildLines(out io.Writer) *buildLines { return &buildLines{out: out} }

func (b *buildLines) print(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, _ = io.WriteString(b.out, strings.TrimRight(text, "\n")+"\n") // a client that is gone is noticed elsewhere
}

// Log implements activity.Sink.
func (b *buildLines) Log(level activity.Level, text string) {
	if level == activity.Error {
		b.print(text)
	}
}

// Start implements activity.Sink.
func (b *buildLines) Start(activity.Event) {}

// Stop implements activity.Sink.
func (b *buildLines) Stop(uint64) {}

// Result implements activity.Sink.
func (b *buildLines) Result(_ uint64, what activity.ResultType, fields []activity.Field) {
	if what == activity.BuildLogLine && len(fields) > 0 {
		b.print(fields[0].Text)
	}
}
