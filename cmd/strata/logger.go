package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"

	"github.com/strata-nix/strata/activity"
)

// newLogger writes log lines to w, each in one write.
func newLogger(w io.Writer, level activity.Level, json bool) *slog.Logger {
	o := &slog.HandlerOptions{Level: slogLevel(level)}
	if json {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(&lineHandler{w: w, level: o.Level, mu: &sync.Mutex{}})
}

// slogLevel is the nearest level that slog has.
func slogLevel(level activity.Level) slog.Level {
	switch {
	case level <= activity.Error:
		return slog.LevelError
	case level == activity.Warn:
		return slog.LevelWarn
	case level <= activity.Info:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

func logTo(l *slog.Logger, level activity.Level, text string) {
	l.Log(context.Background(), slogLevel(level), text)
}

// lineHandler writes lines as Nix's programs do: the message, with its urgency
// before it if that is unusual. There is no time in them, as whoever collects
// the lines knows it. Attributes follow as name=value.
type lineHandler struct {
	w     io.Writer
	level slog.Leveler
	mu    *sync.Mutex
	attrs string
	group string
}

// Enabled compares levels.
func (h *lineHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

// Handle writes one line.
func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	switch {
	case r.Level >= slog.LevelError:
		b.WriteString("error: ")
	case r.Level >= slog.LevelWarn:
		b.WriteString("warning: ")
	}
	b.WriteString(r.Message)
	b.WriteString(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		b.WriteString(h.attr(a))
		return true
	})
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.w, b.String())
	return err
}

func (h *lineHandler) attr(a slog.Attr) string {
	v := a.Value.Resolve().String()
	if strings.ContainsAny(v, " \t\n\"") || v == "" {
		v = fmt.Sprintf("%q", v)
	}
	return " " + h.group + a.Key + "=" + v
}

// WithAttrs adds attributes to all lines.
func (h *lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	for _, a := range attrs {
		c.attrs += h.attr(a)
	}
	return &c
}

// WithGroup puts a name before those of the attributes.
func (h *lineHandler) WithGroup(name string) slog.Handler {
	c := *h
	c.group += name + "."
	return &c
}
