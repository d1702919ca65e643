package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
)

func TestLinesWithoutATerminal(t *testing.T) {
	var b bytes.Buffer
	p := newProgress(&b, activity.Info, false)
	ctx := activity.With(t.Context(), p)
	activity.Warnf(ctx, "beware")
	activity.Logf(ctx, activity.Talkative, "small talk")
	ctx, all := activity.Start(ctx, activity.Info, activity.CopyPaths, "")
	all.Progress(1, 2, 1, 0)
	_, one := activity.Start(ctx, activity.Info, activity.CopyPath, "copying one")
	one.Result(activity.BuildLogLine, activity.Text("a line"))
	one.Stop()
	all.Stop()
	p.close()
	activity.Logf(ctx, activity.Notice, "after the end")
	if want := "warning: beware\ncopying one\na line\nafter the end\n"; b.String() != want {
		t.Errorf("got %q", b.String())
	}
	if len(p.status.running) != 0 {
		t.Errorf("still running: %v", p.status.running)
	}
}

func TestStatusLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProgress(io.Discard, activity.Info, false)
		is := func(want string) {
			t.Helper()
			if got := p.status.text(time.Now()); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		ctx := activity.With(t.Context(), p)
		is("")
		ctx, all := activity.Start(ctx, activity.Info, activity.CopyPaths, "")
		all.Progress(3, 10, 1, 0)
		_, one := activity.Start(ctx, activity.Info, activity.CopyPath, "copying \x1b[31mone\x1b[0m\nmore")
		is("3/10 paths: copying one")
		one.Progress(256<<10, 1<<20, 0, 0)
		is("[###---------] 3/10 paths, 256.0 KiB/1.0 MiB: copying one")
		all.Result(activity.SetExpected, activity.Int(uint64(activity.CopyPath)), activity.Int(10<<20))
		_, two := activity.Start(ctx, activity.Info, activity.CopyPath, "two",
			activity.Text("/nix/store/00000000000000000000000000000000-hello-2.12"), activity.Text("a"), activity.Text("b"))
		is("[------------] 3/10 paths, 256.0 KiB/10.0 MiB: hello-2.12")
		time.Sleep(time.Second) // of a clock that does not wait
		two.Progress(1<<20, 4<<20, 0, 0)
		is("[#-----------] 3/10 paths, 1.2/10.0 MiB, 1.0 MiB/s, 9s left: hello-2.12")
		two.Stop()
		one.Stop()
		is("[#-----------] 3/10 paths, 1.2/10.0 MiB, 1.0 MiB/s, 9s left")
		time.Sleep(time.Minute)
		is("[#-----------] 3/10 paths, 1.2/10.0 MiB")
		all.Stop()
		is("")
		_, check := activity.Start(ctx, activity.Info, activity.VerifyPaths, "checking")
		check.Progress(5, 8, 0, 0)
		is("5/8: checking")
		_, file := activity.Start(ctx, activity.Info, activity.FileTransfer, "downloading x")
		file.Progress(1000, 0, 0, 0)
		is("5/8, 1000 B: downloading x")
	})
}

func TestMeter(t *testing.T) {
	var m meter
	begin := time.Unix(0, 0)
	for i := range 1000 { // ten a second, for 100 seconds
		m.see(begin.Add(time.Duration(i)*100*time.Millisecond), uint64(i)*100)
	}
	if r := m.rate(); r < 990 || r > 1010 || len(m.samples) > 50 {
		t.Errorf("%v a second, by %d samples", r, len(m.samples))
	}
	if d, ok := m.left(5000); !ok || shortDuration(d) != "5s" {
		t.Error(d, ok)
	}
	m.see(begin.Add(200*time.Second), 5)
	if _, ok := m.left(1); ok || m.rate() != 0 {
		t.Error("it knows a rate of what has just begun")
	}
	for d, want := range map[time.Duration]string{0: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m01s",
		3*time.Hour + 4*time.Minute: "3h04m", 50 * time.Hour: "2d02h"} {
		if got := shortDuration(d); got != want {
			t.Errorf("%v: %s", d, got)
		}
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain\ttext\n":             "plain\ttext\n",
		"\x1b[1;31mred\x1b[0m!":     "red!",
		"a\x1b]0;title\x07b":        "a]0;titleb",
		"over\rwritten\b\x7f\u009b": "overwritten",
		"cut\x1b[31":                "cut",
		"ünï":                       "ünï",
		"bad\xffbytes":              "bad\ufffdbytes",
	} {
		if got := printable(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestSizes(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 5 << 30: "5.0 GiB", 1<<64 - 1: "16.0 EiB"} {
		if got := size(n); got != want {
			t.Errorf("%d: %q", n, got)
		}
	}
	for s, want := range map[string]uint64{"": 1<<64 - 1, "0": 0, "12": 12, "1K": 1024, "2m": 2 << 20, "3G": 3 << 30, "1T": 1 << 40} {
		if got, err := parseSize(s); got != want || err != nil {
			t.Errorf("%q: %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"K", "1KK", "-1", "1.5G", "x", "1 K", "99999999999T"} {
		if got, err := parseSize(s); err == nil {
			t.Errorf("%q: %d", s, got)
		}
	}
}

func TestLogLines(t *testing.T) {
	var b bytes.Buffer
	log := newLogger(&b, activity.Info, false)
	log.Info("plain")
	log.Debug("not wanted")
	log.Warn("careful", "n", 3, "what", "two words")
	log.With("a", 1).WithGroup("g").Error("broken", "error", errors.New("why"))
	want := "plain\nwarning: careful n=3 what=\"two words\"\nerror: broken a=1 g.error=why\n"
	if b.String() != want {
		t.Errorf("got %q", b.String())
	}
	b.Reset()
	newLogger(&b, activity.Talkative, true).Debug("wanted")
	if !strings.Contains(b.String(), `"msg":"wanted"`) {
		t.Errorf("got %q", b.String())
	}
	for level, want := range map[activity.Level]slog.Level{
		activity.Error: slog.LevelError, activity.Warn: slog.LevelWarn, activity.Notice: slog.LevelInfo, activity.Info: slog.LevelInfo, activity.Vomit: slog.LevelDebug,
	} {
		if got := slogLevel(level); got != want {
			t.Errorf("%d: %v", level, got)
		}
	}
}

func TestLevels(t *testing.T) {
	for _, c := range []struct {
		verbose int
		quiet   bool
		want    activity.Level
	}{{0, false, activity.Info}, {1, false, activity.Talkative}, {100, false, activity.Vomit}, {3, true, activity.Warn}} {
		if got := levelOf(c.verbose, c.quiet); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want exitCode
	}{
		{nil, exitOK},
		{errors.New("x"), exitError},
		{&usageError{store.ErrNotValid}, exitUsage},
		{store.ErrReference, exitUsage},
		{&store.InvalidPathError{}, exitAbsent},
		{&absentError{"x"}, exitAbsent},
		{&store.DamageError{}, exitDamaged},
		{&store.HashMismatchError{Want: nixhash.Of(nixhash.SHA256, ""), Got: nixhash.Of(nixhash.SHA256, "")}, exitDamaged},
		{&store.SignatureError{}, exitDamaged},
		{&nar.FormatError{}, exitDamaged},
		{context.Canceled, exitInterrupted},
		{errTerminated, exitTerminated},
		{errOutputClosed, exitPipe},
	} {
		if got := exitCodeOf(c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
		if c.err != nil {
			if got := exitCodeOf(fmt.Errorf("while: %w", c.err)); got != c.want {
				t.Errorf("wrapped %v: %d, want %d", c.err, got, c.want)
			}
		}
	}
}
