package substitute

import (
	"context"
	"sync"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Count is how far a substitution is.
type Count struct {
	Done     uint64 // paths that have come
	Expected uint64 // paths in all, those that failed left out
	Running  uint64
	Failed   uint64
	Download uint64 // bytes that travel in all
	Nar      uint64 // bytes of NARs in all
}

// tally counts what becomes of the paths of a run.
type tally struct {
	observe func(Count)

	mu      sync.Mutex
	count   Count
	weights map[storepath.Path]weight // of what is expected
	running storepath.Set
}

// weight is what a path adds to the bytes.
type weight struct{ download, nar uint64 }

func newTally(observe func(Count)) *tally {
	return &tally{observe: observe, weights: map[storepath.Path]weight{}, running: storepath.Set{}}
}

func (t *tally) change(f func(c *Count)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.count
	f(&t.count)
	t.count.Running = uint64(len(t.running))
	if t.count != before {
		t.observe(t.count)
	}
}

// expect counts imports as coming, each from its first offer.
func (t *tally) expect(imports []store.Import) {
	t.change(func(c *Count) {
		for _, m := range imports {
			t.forget(c, m.Path)
			w := weight{m.Offers[0].DownloadSize, m.Offers[0].Info.NarSize}
			t.weights[m.Path] = w
			c.Expected, c.Download, c.Nar = c.Expected+1, c.Download+w.download, c.Nar+w.nar
		}
	})
}

func (t *tally) forget(c *Count, p storepath.Path) {
	if w, ok := t.weights[p]; ok {
		delete(t.weights, p)
		c.Expected, c.Download, c.Nar = c.Expected-1, c.Download-w.download, c.Nar-w.nar
	}
}

// begin counts a path as under way.
func (t *tally) begin(p storepath.Path) {
	t.change(func(*Count) { t.running.Add(p) })
}

// end counts an outcome.
func (t *tally) end(p storepath.Path, ok bool) {
	t.change(func(c *Count) {
		delete(t.running, p)
		if ok {
			c.Done++
			delete(t.weights, p) // its bytes have come
		} else {
			c.Failed++
			t.forget(c, p)
		}
	})
}

// show shows counts as the activities that Nix has for them, below ctx. The
// caller stops them.
func show(ctx context.Context) (observe func(Count), stop func()) {
	_, all := activity.Start(ctx, activity.Error, activity.Realise, "")
	_, paths := activity.Start(ctx, activity.Error, activity.CopyPaths, "")
	var last Count
	observe = func(c Count) {
		paths.Progress(c.Done, c.Expected, c.Running, c.Failed)
		if c.Download != last.Download {
			all.Result(activity.SetExpected, activity.Int(uint64(activity.FileTransfer)), activity.Int(c.Download))
		}
		if c.Nar != last.Nar {
			all.Result(activity.SetExpected, activity.Int(uint64(activity.CopyPath)), activity.Int(c.Nar))
		}
		last = c
	}
	return observe, func() { paths.Stop(); all.Stop() }
}
