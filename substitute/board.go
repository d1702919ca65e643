package substitute

import (
	"context"
	"sync"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/storepath"
)

// board tells everybody who waits for a path how far it is, whoever of them it is
// that fetches it.
type board struct {
	mu    sync.Mutex
	paths map[storepath.Path]*notice
}

// notice is what the board says of one path. Its fields belong to board.mu.
type notice struct {
	watchers []*run
	transfer *transfer // nil: nobody fetches it
}

func newBoard() *board { return &board{paths: map[storepath.Path]*notice{}} }

// watch has a run hear of paths until unwatch.
func (b *board) watch(x *run, paths []storepath.Path) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range paths {
		n := b.paths[p]
		if n == nil {
			n = new(notice)
			b.paths[p] = n
		}
		n.watchers = append(n.watchers, x)
		if n.transfer != nil {
			n.transfer.attach(x)
		}
	}
}

func (b *board) unwatch(x *run, paths []storepath.Path) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range paths {
		n := b.paths[p]
		for i, w := range n.watchers {
			if w == x {
				n.watchers = append(n.watchers[:i:i], n.watchers[i+1:]...)
				break
			}
		}
		if n.transfer != nil {
			n.transfer.detach(x)
		}
		if len(n.watchers) == 0 {
			delete(b.paths, p)
		}
	}
}

// begin puts up that a run, which watches the path, fetches it. What happens under the context
// that it gives lies below the activity of that run.
func (b *board) begin(ctx context.Context, x *run, f *found) (context.Context, *transfer) {
	t := &transfer{board: b, found: f, acts: map[*run]acts{}}
	b.mu.Lock()
	defer b.mu.Unlock()
	ctx = t.start(ctx, x)
	if n := b.paths[f.info.Path]; n != nil {
		n.transfer = t
		for _, w := range n.watchers {
			if w != x {
				t.attach(w)
			}
		}
	}
	return ctx, t
}

// transfer is one object on its way.
type transfer struct {
	board *board
	found *found

	mu   sync.Mutex
	acts map[*run]acts
	done uint64 // bytes
	told uint64 // bytes that have been told
}

// acts are the activities that one watcher sees.
type acts struct{ substitute, copyPath *activity.Activity }

// tellEvery is after how many bytes watchers hear of them.
const tellEvery = 256 << 10

// start begins the activities of one watcher, as Nix has them.
func (t *transfer) start(ctx context.Context, x *run) context.Context {
	path := x.dest.Dir().Print(t.found.info.Path)
	theirs := t.found.at.Store.Dir().Print(t.found.theirs)
	from := activity.Text(t.found.at.Name)
	ctx, s := activity.Start(ctx, activity.Error, activity.Substitute, "", activity.Text(path), from)
	ctx, c := activity.Start(ctx, activity.Info, activity.CopyPath, "copying path '"+theirs+"' from '"+t.found.at.Name+"'",
		activity.Text(theirs), from, activity.Text(x.destName))
	t.mu.Lock()
	t.acts[x] = acts{s, c}
	t.mu.Unlock()
	x.tally.begin(t.found.info.Path)
	return ctx
}

func (t *transfer) attach(x *run) { t.start(x.ctx, x) }

func (t *transfer) detach(x *run) {
	t.mu.Lock()
	a, ok := t.acts[x]
	delete(t.acts, x)
	t.mu.Unlock()
	if ok {
		a.stop()
	}
}

func (a acts) stop() {
	a.copyPath.Stop()
	a.substitute.Stop()
}

// add tells that more bytes have come.
func (t *transfer) add(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done += uint64(n) //nolint:gosec // not negative
	if t.done-t.told < tellEvery && t.done < t.found.info.NarSize {
		return
	}
	t.told = t.done
	for _, a := range t.acts {
		a.copyPath.Progress(t.done, t.found.info.NarSize, 0, 0)
	}
}

// end takes it from the board.
func (t *transfer) end() {
	t.board.mu.Lock()
	if n := t.board.paths[t.found.info.Path]; n != nil && n.transfer == t {
		n.transfer = nil
	}
	t.board.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	for x, a := range t.acts {
		a.stop()
		delete(t.acts, x)
	}
}
