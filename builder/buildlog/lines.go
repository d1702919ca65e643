package buildlog

import (
	"bytes"
	"context"
	"sync"

	"github.com/strata-nix/strata/activity"
)

// maxLine is how many bytes of a line are kept together; what is longer comes as
// several lines.
const maxLine = 64 << 10

// Lines makes of the output of a builder what clients see of it. It is an
// [io.Writer] that never fails. Memory is bounded whatever is written.
//
// A carriage return takes the line back to its beginning, as on a terminal,
// unless a line feed follows.
type Lines struct {
	ctx   context.Context //nolint:containedctx // that of the build, for messages
	act   *activity.Activity
	trust bool

	mu      sync.Mutex
	line    []byte
	dirty   bool // something was written since the last line
	cr      bool // the last byte was a carriage return
	tail    tail
	started map[uint64]*activity.Activity
}

// NewLines makes the lines of a build whose activity is act and whose messages lie
// under ctx. The last tailLines lines are kept for [Lines.Tail].
func NewLines(ctx context.Context, act *activity.Activity, tailLines int) *Lines {
	return &Lines{ctx: ctx, act: act, tail: tail{max: tailLines}, started: map[uint64]*activity.Activity{}}
}

// Trust lets structured messages start activities of all types, for what comes
// from a program of ours; of builders only file transfers are believed.
func (l *Lines) Trust() { l.trust = true }

// Write takes some output.
func (l *Lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexAny(p, "\r\n")
		if i < 0 {
			l.text(p)
			break
		}
		l.text(p[:i])
		if p[i] == '\n' {
			l.flush()
		} else {
			l.cr, l.dirty = true, true
		}
		p = p[i+1:]
	}
	return n, nil
}

// text adds to the line.
func (l *Lines) text(p []byte) {
	if len(p) == 0 {
		return
	}
	if l.cr {
		l.line, l.cr = l.line[:0], false
	}
	for len(l.line)+len(p) > maxLine {
		room := maxLine - len(l.line)
		l.line = append(l.line, p[:room]...)
		p = p[room:]
		l.flush()
	}
	l.line, l.dirty = append(l.line, p...), true
}

// flush ends the line.
func (l *Lines) flush() {
	if !l.message(l.line) {
		text := string(l.line)
		l.act.Result(activity.BuildLogLine, activity.Text(text))
		l.tail.add(text)
	}
	l.line, l.dirty, l.cr = l.line[:0], false, false
}

// Close ends the last line, and the activities that the builder left open.
func (l *Lines) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dirty {
		l.flush()
	}
	for id, act := range l.started {
		act.Stop()
		delete(l.started, id)
	}
	return nil
}

// Tail gives the last lines, the oldest first.
func (l *Lines) Tail() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tail.lines()
}

// tail is a ring of lines.
type tail struct {
	ring []string
	next int // where the oldest is, once the ring is full
	max  int
}

func (t *tail) add(line string) {
	switch {
	case t.max <= 0:
	case len(t.ring) < t.max:
		t.ring = append(t.ring, line)
	default:
		t.ring[t.next] = line
		t.next = (t.next + 1) % t.max
	}
}

func (t *tail) lines() []string {
	return append(append([]string(nil), t.ring[t.next:]...), t.ring[:t.next]...)
}
