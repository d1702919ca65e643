package builder_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/storepath"
)

// counter counts what a store is asked for.
type counter struct {
	*local.Store
	asked, read atomic.Int64
}

func (c *counter) ValidPaths(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error) {
	c.asked.Add(1)
	return c.Store.ValidPaths(ctx, paths)
}

func (c *counter) Derivation(ctx context.Context, p storepath.Path) (*derivation.Derivation, error) {
	c.read.Add(1)
	return c.Store.Derivation(ctx, p)
}

// A wide and deep graph is asked level by level, not path by path, and each
// derivation is read once.
func TestGraphsAreAskedBySets(t *testing.T) {
	w := newWorld(t)
	var level []storepath.Path
	all := 0
	for depth := range 5 {
		var next []storepath.Path
		for i := range 10 {
			next = append(next, w.add(drv{name: fmt.Sprintf("d%d-%d", depth, i), inputs: level}))
			all++
		}
		level = next
	}
	c := &counter{Store: w.s}
	w.v.Store = c
	var targets []derivation.DerivedPath
	for _, p := range level {
		targets = append(targets, wants(p))
	}
	m, err := w.b.QueryMissing(t.Context(), w.v, targets)
	if err != nil || len(m.WillBuild) != all {
		t.Fatalf("%+v, %v", m, err)
	}
	if c.asked.Load() > 2*5 || c.read.Load() > int64(all) {
		t.Errorf("to plan %d derivations in 5 levels the store was asked %d times, and %d derivations were read", all, c.asked.Load(), c.read.Load())
	}
	c.asked.Store(0)
	c.read.Store(0)
	if _, err := w.b.BuildPaths(t.Context(), w.v, targets, 0); err != nil {
		t.Fatal(err)
	}
	if n := len(w.began()); n != all {
		t.Errorf("%d derivations were built", n)
	}
	// Each level: the derivations, their outputs, the sources; each build: the
	// outputs once more.
	if c.asked.Load() > 3*5+2*int64(all) || c.read.Load() > int64(all) {
		t.Errorf("to build %d derivations in 5 levels the store was asked %d times, and %d derivations were read", all, c.asked.Load(), c.read.Load())
	}
}

func BenchmarkTrivialBuilds(b *testing.B) {
	for _, n := range []int{25, 200, 800, 1600} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { benchmarkBuilds(b, n) })
	}
}

func benchmarkBuilds(b *testing.B, n int) {
	for range b.N {
		b.StopTimer()
		w := newWorld(b)
		w.v.Options.MaxJobs = 2
		targets := make([]derivation.DerivedPath, n)
		for i := range n {
			targets[i] = wants(w.add(drv{name: fmt.Sprint("d", i)}))
		}
		b.StartTimer()
		w.mustBuild(targets...)
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N*n), "ms/build")
}
