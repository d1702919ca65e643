package builder_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/store"
)

// client is a request of its own.
type client struct {
	said   *lines
	cancel context.CancelFunc
	done   chan struct{}

	results []*store.BuildResult
	err     error
}

func (w *world) client(targets ...derivation.DerivedPath) *client {
	ctx, cancel := context.WithCancel(w.t.Context())
	c := &client{said: newLines(), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		c.results, c.err = w.b.BuildPaths(activity.With(ctx, c.said), w.v, targets, store.BuildNormal)
	}()
	w.t.Cleanup(func() { cancel(); <-c.done })
	return c
}

// gate is a build that goes on when it is told to.
type gate struct {
	started chan context.Context
	result  chan *store.BuildResult // nil: as usual
}

func (w *world) gate() *gate {
	g := &gate{started: make(chan context.Context), result: make(chan *store.BuildResult)}
	w.run = func(ctx context.Context, _ *execute.Job) (*store.BuildResult, error) {
		_, act := activity.Start(ctx, activity.Info, activity.Unknown, "")
		defer act.Stop()
		act.Result(activity.BuildLogLine, activity.Text("hello"))
		g.started <- ctx
		select {
		case r := <-g.result:
			return r, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return g
}

// joined waits until a client listens to a build.
func (c *client) joined() {
	for !c.said.has("start building '") {
		select {
		case <-c.done:
			return
		default:
		}
	}
}

func TestTwoClientsShareABuild(t *testing.T) {
	w := newWorld(t)
	a := w.add(drv{name: "a"})
	g := w.gate()
	first := w.client(wants(a))
	<-g.started
	second := w.client(wants(a))
	second.joined()
	g.result <- nil
	<-first.done
	<-second.done
	w.expect("a")
	for _, c := range []*client{first, second} {
		if c.err != nil || c.results[0].Status != store.Built {
			t.Errorf("%+v, %v", c.results, c.err)
		}
		if len(c.said.open) > 0 {
			t.Errorf("activities that never end: %v", c.said.open)
		}
	}
	if !first.said.has("line hello") || second.said.has("line hello") {
		t.Errorf("told the first %v, the second %v", first.said, second.said)
	}
}

func TestABuildDiesWithItsLastClient(t *testing.T) {
	w := newWorld(t)
	a := w.add(drv{name: "a"})
	g := w.gate()
	first := w.client(wants(a))
	build := <-g.started
	second := w.client(wants(a))
	second.joined()
	first.cancel()
	<-first.done
	if !errors.Is(first.err, context.Canceled) || build.Err() != nil {
		t.Errorf("%v; the build: %v", first.err, build.Err())
	}
	if len(first.said.open) > 0 {
		t.Errorf("activities that never end: %v", first.said.open)
	}
	second.cancel()
	<-second.done
	if build.Err() == nil {
		t.Error("the build goes on for nobody")
	}
	// Nothing stays of it that would keep the next one from building.
	third := w.client(wants(a))
	<-g.started
	g.result <- nil
	<-third.done
	if third.err != nil || third.results[0].Status != store.Built {
		t.Errorf("%+v, %v", third.results, third.err)
	}
}

func TestLimitsOfOneClientAreNotThoseOfAnother(t *testing.T) {
	w := newWorld(t)
	a := w.add(drv{name: "a"})
	g := w.gate()
	hasty := w.client(wants(a))
	<-g.started
	patient := w.client(wants(a))
	patient.joined()
	g.result <- &store.BuildResult{Status: store.TimedOut, Message: "timed out"}
	<-hasty.done
	if hasty.results[0].Status != store.TimedOut || hasty.results[0].ExitStatus != 101 {
		t.Errorf("%+v", hasty.results[0])
	}
	<-g.started
	g.result <- nil
	<-patient.done
	if patient.err != nil || patient.results[0].Status != store.Built {
		t.Errorf("%+v, %v", patient.results, patient.err)
	}
}

func TestFailuresAreShared(t *testing.T) {
	w := newWorld(t)
	a := w.add(drv{name: "a"})
	g := w.gate()
	first := w.client(wants(a))
	<-g.started
	second := w.client(wants(a))
	second.joined()
	g.result <- &store.BuildResult{Status: store.PermanentFailure, Message: "no"}
	<-first.done
	<-second.done
	w.expect("a")
	if first.results[0].Status != store.PermanentFailure || second.results[0].Status != store.PermanentFailure {
		t.Errorf("%+v, %+v", first.results[0], second.results[0])
	}
}

// A bug of ours is an error of the request that meets it.
func TestAPanicHarmsNobodyElse(t *testing.T) {
	w := newWorld(t)
	a, b := w.add(drv{name: "a"}), w.add(drv{name: "b"})
	w.run = func(_ context.Context, job *execute.Job) (*store.BuildResult, error) {
		if job.Drv.Name == "a" {
			panic("oh no")
		}
		return nil, nil
	}
	if _, err := w.build(wants(a)); err == nil || !strings.Contains(err.Error(), "internal error while building: oh no") {
		t.Error(err)
	}
	w.mustBuild(wants(b))
}

// A client that reads nothing holds up its own build, not one that it joined.
func TestASlowListenerHoldsNobodyUp(t *testing.T) {
	w := newWorld(t)
	a := w.add(drv{name: "a"})
	started, goOn := make(chan struct{}), make(chan struct{})
	const many = 100_000
	w.run = func(ctx context.Context, _ *execute.Job) (*store.BuildResult, error) {
		_, act := activity.Start(ctx, activity.Info, activity.Unknown, "")
		defer act.Stop()
		close(started)
		<-goOn
		for i := range many {
			act.Result(activity.BuildLogLine, activity.Text(fmt.Sprint(i)))
		}
		return nil, nil
	}
	first := w.client(wants(a))
	<-started
	deaf := &deafSink{lines: newLines(), hear: make(chan struct{}), joined: make(chan struct{})}
	done := make(chan error)
	go func() {
		_, err := w.b.BuildPaths(activity.With(t.Context(), deaf), w.v, []derivation.DerivedPath{wants(a)}, store.BuildNormal)
		done <- err
	}()
	<-deaf.joined
	close(goOn)
	<-first.done
	if first.err != nil {
		t.Error(first.err)
	}
	close(deaf.hear)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := len(deaf.all); n == 0 || n >= many {
		t.Errorf("%d lines got through", n)
	}
	if len(deaf.open) > 0 {
		t.Errorf("activities that never end: %v", deaf.open)
	}
}

// deafSink hears nothing of a build before it wants to.
type deafSink struct {
	*lines
	once         sync.Once
	joined, hear chan struct{}
}

func (d *deafSink) Start(e activity.Event) {
	if e.Type == activity.Build {
		d.once.Do(func() { close(d.joined) })
		<-d.hear
	}
	d.lines.Start(e)
}

func TestLocksOfOtherProcesses(t *testing.T) {
	w := newWorld(t)
	w.v.Options.MaxJobs = 1
	a, b := w.add(drv{name: "a"}), w.add(drv{name: "b"})
	d, err := w.s.Derivation(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	out := d.Outputs["out"].Path
	lock, err := flock.OpenLive(t.Context(), filepath.Join(w.s.RealDir(), out.Base()+".lock"), nil)
	if err != nil {
		t.Fatal(err)
	}
	c := w.client(wants(a), wants(b))
	for !c.said.has("waiting for lock on '") {
	}
	// Meanwhile the slot is free for others.
	for {
		if began := w.began(); len(began) > 0 {
			if began[0] != "b" {
				t.Fatalf("built %q under the lock of somebody else", began)
			}
			break
		}
	}
	// The other one makes the output.
	job := &execute.Job{DrvPath: a, Drv: &d.Basic}
	if _, err := w.make(t.Context(), job, "out", d.Outputs["out"]); err != nil {
		t.Fatal(err)
	}
	lock.Delete()
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	<-c.done
	if c.err != nil || c.results[0].Status != store.AlreadyValid {
		t.Errorf("%+v, %v", c.results, c.err)
	}
	w.expect()
	left, err := filepath.Glob(filepath.Join(w.s.RealDir(), "*.lock"))
	if err != nil || len(left) > 0 {
		t.Errorf("lock files that stay: %q, %v", left, err)
	}
}
