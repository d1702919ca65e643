package lazy_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/strata-nix/strata/store/lazy"
)

// Whoever asks is told what was fetched, what failed and why, and which cache is to blame.
func TestReport(t *testing.T) {
	good, bad := tree(t, "good"), tree(t, "bad")
	from := newOrigin(t, "a", good, bad)
	from.Before = func(_ context.Context, op, name string) error {
		if op == "get" && strings.HasPrefix(name, "nar/") {
			return errors.New("the line is dead")
		}
		return nil
	}
	fine := newOrigin(t, "b", good)
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.trusted(), fine.trusted()}, Graduate: true}, lazy.CacheOptions{MaxBytes: 1 << 30})
	s.wants(good.Path(), "bin/hello", "hello from good")
	for range 5 {
		if _, err := s.read(t.Context(), bad.Path(), "bin/hello"); err == nil {
			t.Error("it can be read")
		}
	}
	s.settled()
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.objects.AnswerControl(ctx, s.dir) }()
	var r *lazy.Report
	for err := error(errors.New("not yet")); err != nil; {
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		r, err = lazy.AskControl(ctx, s.dir)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if o := r.Objects; o != (lazy.Held{Known: 2, Complete: 1, Graduated: 1}) {
		t.Errorf("%+v", o)
	}
	if c := r.Counts; c.Fetched != 1 || c.EIO != 5 || c.Failed != 1 || c.Requests != 4 || c.Bytes == 0 {
		t.Errorf("%+v", c)
	}
	h := r.Health
	if len(h.Origins) != 2 || h.Origins[0].Failures != 2 || h.Origins[0].Last == nil || !strings.Contains(h.Origins[0].Last.Text, "the line is dead") || h.Origins[1].Last != nil || h.Origins[1].Failures != 0 {
		t.Errorf("%+v", h)
	}
	if h.Last == nil || !strings.Contains(h.Last.Text, "cannot be had") || h.Last.Time.IsZero() {
		t.Errorf("%+v", h.Last)
	}
	if r.Cache.Objects != 1 || r.Cache.Bound != 1<<30 || r.Cache.Bytes == 0 {
		t.Errorf("%+v", r.Cache)
	}
	if n := strings.Count(s.logged(), "the line is dead"); n != 1 {
		t.Errorf("it is logged %d times:\n%s", n, s.logged())
	}
}
