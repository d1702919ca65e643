package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
)

// redraw is how often the line of a terminal changes at most.
const redraw = 100 * time.Millisecond

// progress shows what operations tell: on a terminal as a line that changes,
// elsewhere as a line for each thing begun. It is an activity.Sink.
type progress struct {
	w     io.Writer
	level activity.Level
	tty   bool
	json  *slog.Logger // instead of plain lines; may be nil

	mu      sync.Mutex
	status  statusLine
	line    string // on the terminal now
	dirty   bool
	shown   time.Time // when the line was brought up to date
	stop    chan struct{}
	stopped sync.WaitGroup
}

// newProgress writes to w. Close ends it.
func newProgress(w io.Writer, level activity.Level, json bool) *progress {
	p := &progress{w: w, level: level, stop: make(chan struct{})}
	switch {
	case json:
		p.json = newLogger(w, level, true)
	case isTerminal(w) && level >= activity.Info:
		p.tty = true
		p.stopped.Go(p.draw)
	}
	return p
}

// Log writes a line, unless it is of no interest.
func (p *progress) Log(level activity.Level, text string) {
	if level > p.level {
		return
	}
	if p.json != nil {
		logTo(p.json, level, text)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	_, _ = io.WriteString(p.w, printable(text)+"\n")
}

// Start notes an activity and, where no line can change, tells of it.
func (p *progress) Start(e activity.Event) {
	p.mu.Lock()
	p.status.start(e)
	p.dirty = true
	p.mu.Unlock()
	if !p.tty && e.Text != "" {
		p.Log(e.Level, e.Text)
	}
}

// Stop forgets an activity.
func (p *progress) Stop(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status.stop(id)
	p.dirty = true
}

// Result notes how far an activity is, and writes lines of build logs.
func (p *progress) Result(id uint64, what activity.ResultType, fields []activity.Field) {
	if (what == activity.BuildLogLine || what == activity.PostBuildLogLine) && len(fields) >= 1 {
		p.Log(activity.Info, fields[0].Text)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.status.result(id, what, fields) {
		p.dirty = true
	}
}

// hide takes the line off the terminal for something else to be written.
func (p *progress) hide() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
}

// close ends the drawing. Logging goes on to work. It is called once.
func (p *progress) close() {
	if p.tty {
		close(p.stop)
		p.stopped.Wait()
		p.hide()
	}
}

func (p *progress) clear() {
	if p.line != "" {
		_, _ = io.WriteString(p.w, "\r\x1b[K")
		p.line = ""
		p.dirty = true
	}
}

func (p *progress) draw() {
	tick := time.NewTicker(redraw)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case now := <-tick.C:
			p.show(now)
		}
	}
}

// show brings the line on the terminal up to date.
func (p *progress) show(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// Rates change also when nothing happens.
	if !p.dirty && now.Sub(p.shown) < time.Second {
		return
	}
	p.dirty, p.shown = false, now
	if line := clip(p.status.text(now), p.width()-1); line != p.line {
		_, _ = io.WriteString(p.w, "\r\x1b[K"+line)
		p.line = line
	}
}

func (p *progress) width() int {
	f, ok := p.w.(*os.File)
	if !ok {
		return 80
	}
	ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || ws.Col < 2 {
		return 80
	}
	return int(ws.Col)
}

func clip(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:width])
}

// printable drops what would steer a terminal: lines come from other machines,
// too.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, dropEscapes(s))
}

// dropEscapes takes out CSI sequences whole, such as those for colours.
func dropEscapes(s string) string {
	if !strings.Contains(s, "\x1b[") {
		return s
	}
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, "\x1b[")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		end := strings.IndexFunc(after, func(r rune) bool { return r >= '@' && r <= '~' })
		if end < 0 {
			return b.String()
		}
		s = after[end+1:]
	}
}

// size spells a number of bytes for people.
func size(n uint64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/unit, 0
	for ; f >= unit && i < 5; i++ {
		f /= unit
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGTPE"[i])
}
