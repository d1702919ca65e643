package execute

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strata-nix/strata/store"
)

// watched runs a builder that is only its limits, and gives what it was stopped
// with, and after which time.
func watched(t *testing.T, w *watch, builder func(say func(string))) (f *failure, after time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		w.drv, w.stop = "/nix/store/x.drv", cancel
		w.write = func([]byte) {}
		done := make(chan struct{})
		start := time.Now()
		go func() {
			builder(func(s string) { w.take([]byte(s)) })
			close(done)
			cancel(nil)
		}()
		go w.limits(done)
		<-ctx.Done()
		after = time.Since(start)
		errors.As(context.Cause(ctx), &f)
		<-done
	})
	return f, after
}

func TestLimitsOfTime(t *testing.T) {
	talk := func(every time.Duration, times int) func(func(string)) {
		return func(say func(string)) {
			for range times {
				time.Sleep(every)
				say("x\n")
			}
		}
	}
	for _, c := range []struct {
		name        string
		silent, all time.Duration
		builder     func(func(string))
		want        string
		after       time.Duration
	}{
		{"quick", 2 * time.Second, 3 * time.Second, talk(time.Second, 1), "", time.Second},
		{"without limits", 0, 0, talk(time.Hour, 100), "", 100 * time.Hour},
		{"silent", 2 * time.Second, 0, talk(time.Minute, 1), "timed out after 2 seconds", 2 * time.Second},
		{"talks", 2 * time.Second, 0, talk(time.Second, 60), "", time.Minute},
		{"talks for too long", 2 * time.Second, 30 * time.Second, talk(time.Second, 60), "timed out after 30 seconds", 30 * time.Second},
		{"falls silent", 5 * time.Second, 0, func(say func(string)) {
			talk(3*time.Second, 2)(say)
			time.Sleep(time.Minute)
		}, "timed out after 5 seconds", 11 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, after := watched(t, &watch{maxSilence: c.silent, maxTime: c.all}, c.builder)
			switch {
			case after != c.after:
				t.Errorf("after %v", after)
			case f == nil && c.want != "":
				t.Error("it was not stopped")
			case f != nil && (c.want == "" || f.status != store.TimedOut || !strings.HasSuffix(f.msg, "'/nix/store/x.drv' "+c.want)):
				t.Errorf("%d: %s", f.status, f.msg)
			}
		})
	}
}

func TestLimitOfLogSize(t *testing.T) {
	var got bytes.Buffer
	var stopped error
	w := &watch{drv: "x.drv", maxSize: 5, write: func(p []byte) { got.Write(p) }, stop: func(err error) { stopped = err }}
	w.read(io.MultiReader(strings.NewReader("123"), strings.NewReader("4567"), strings.NewReader("89")))
	var f *failure
	if !errors.As(stopped, &f) || f.status != store.LogLimitExceeded || f.msg != "building derivation 'x.drv' killed after writing more than 5 bytes of log output" {
		t.Errorf("%v", stopped)
	}
	if got.String() != "12345" {
		t.Errorf("%q", got.String())
	}
}
