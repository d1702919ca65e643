package remote

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/builder/buildlog"
	"github.com/strata-nix/strata/builder/execute"
)

// log is that of a build that takes place elsewhere. What the builder prints
// comes by one of two ways: as lines beside the older protocol, or as messages of the
// activities of another daemon, which go on to the client as they are.
type log struct {
	act   *activity.Activity
	lines *buildlog.Lines

	mu   sync.Mutex
	file *buildlog.File // nil: none is kept
	tail []string
	most int
}

// openLog begins the activity under which the client sees the build. Whatever is
// told under the context that it gives is listened to. The caller closes the log.
func openLog(ctx context.Context, o *execute.Options, s execute.Store, job *execute.Job, machine string) (*log, context.Context, error) {
	l := &log{most: o.LogLines}
	if l.most == 0 {
		l.most = execute.DefaultLogLines
	}
	if !o.NoBuildLog {
		var err error
		if l.file, err = buildlog.Create(context.WithoutCancel(ctx), s.LogDir(), job.DrvPath, o.PlainBuildLog); err != nil {
			return nil, nil, err
		}
	}
	drv := s.Dir().Print(job.DrvPath)
	ctx, l.act = activity.Start(ctx, activity.Info, activity.Build, fmt.Sprintf("building '%s' on '%s'", drv, machine),
		activity.Text(drv), activity.Text(machine), activity.Int(1), activity.Int(1))
	l.lines = buildlog.NewLines(ctx, l.act, l.most)
	return l, activity.Through(ctx, func(next activity.Sink) activity.Sink { return &listener{next, l} }), nil
}

func (l *log) close() {
	_ = l.lines.Close() // it never fails
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		_ = l.file.Close() // a log that is not complete fails no build
		l.file = nil
	}
	l.act.Stop()
}

// line takes what was said beside the protocol.
func (l *log) line(text string) {
	_, _ = l.lines.Write([]byte(text + "\n")) // never fails
	l.keep(text)
}

func (l *log) keep(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		_, _ = l.file.Write([]byte(text + "\n")) // its error is that of Close
	}
	if strings.HasPrefix(text, "@nix ") {
		return // for programs
	}
	if l.tail = append(l.tail, text); len(l.tail) > max(l.most, 0) {
		l.tail = l.tail[len(l.tail)-max(l.most, 0):]
	}
}

// explain is the message of a build that failed elsewhere. The other side may have
// put the end of the log into its own.
func (l *log) explain(drv, message string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := fmt.Sprintf("Cannot build '%s'.\nReason: ", drv)
	var b strings.Builder
	b.WriteString(first + strings.TrimPrefix(strings.TrimSpace(message), first))
	if len(l.tail) > 0 && !strings.Contains(message, "log lines:") {
		fmt.Fprintf(&b, "\nLast %d log lines:", len(l.tail))
		for _, line := range l.tail {
			b.WriteString("\n> " + line)
		}
	}
	return b.String()
}

// listener passes everything on, and keeps what belongs into the log.
type listener struct {
	activity.Sink
	log *log
}

// Result implements activity.Sink.
func (s *listener) Result(id uint64, what activity.ResultType, fields []activity.Field) {
	s.Sink.Result(id, what, fields)
	if len(fields) == 0 || !fields[0].IsText {
		return
	}
	switch what {
	case activity.BuildLogLine:
		s.log.keep(fields[0].Text)
	case activity.SetPhase:
		// As the builder said it, so that whoever reads the log sees phases, too.
		text, err := json.Marshal(map[string]string{"action": "setPhase", "phase": fields[0].Text})
		if err == nil {
			s.log.keep("@nix " + string(text))
		}
	}
}
