package lazy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/strata-nix/strata/fileindex"
	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// How much is served from memory of what a full disk cannot take: of one object, and in all. Of a larger object
// only the file is that somebody wants.
const (
	maxThroughOne = 64 << 20
	maxThroughAll = 256 << 20
)

// ErrDiskFull: there is no room for an object, and it is too large to be served without.
var ErrDiskFull = errors.New("the disk of the cache is full")

// through are verified objects, or files of objects, that are served from memory, as there is no room on
// disk. The ones that were not read for longest go.
type through struct {
	mu    sync.Mutex
	all   []*passing // the one that was read last is the last
	bytes int64
	turn  map[storepath.Path]chan struct{} // who fetches one has its channel, closed afterwards
}

// passing is one of them.
type passing struct {
	*spool
	info    *store.PathInfo
	tree    *fusefs.Tree
	offsets []int64
}

// covers tells whether a file is there.
func (ps *passing) covers(node uint32) bool {
	size := ps.tree.Node(node).Size
	return ps.offsets[node] >= ps.from && ps.offsets[node]+size <= ps.to || size == 0
}

// find finds what is here of an object and is wanted.
func (t *through) find(info *store.PathInfo, wants func(*passing) bool) *passing {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := len(t.all) - 1; i >= 0; i-- {
		if ps := t.all[i]; ps.info.Path == info.Path && ps.info.NarHash == info.NarHash && wants(ps) {
			t.all = append(append(t.all[:i:i], t.all[i+1:]...), ps)
			return ps
		}
	}
	return nil
}

// keep adds one, and lets others go. Whoever reads from those has their file still.
func (t *through) keep(ps *passing) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = append(t.all, ps)
	t.bytes += ps.to - ps.from
	for t.bytes > maxThroughAll && len(t.all) > 1 {
		t.bytes -= t.all[0].to - t.all[0].from
		t.all = t.all[1:]
	}
}

// wait waits for one's turn to fetch an object.
func (t *through) wait(ctx context.Context, p storepath.Path) (done func(), err error) {
	for {
		t.mu.Lock()
		c := t.turn[p]
		if c == nil {
			mine := make(chan struct{})
			if t.turn == nil {
				t.turn = map[storepath.Path]chan struct{}{}
			}
			t.turn[p] = mine
			t.mu.Unlock()
			return func() {
				t.mu.Lock()
				delete(t.turn, p)
				t.mu.Unlock()
				close(mine)
			}, nil
		}
		t.mu.Unlock()
		select {
		case <-c:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// wholeTree wants no file in particular.
const wholeTree = ^uint32(0)

// passThrough gets an object past the full disk: all of it, or the file with the number node in tree. It is
// verified like any other.
func (s *Store) passThrough(ctx context.Context, info *store.PathInfo, tree *fusefs.Tree, node uint32) (*passing, error) {
	wants := func(ps *passing) bool { return node == wholeTree || ps.tree.Has(node) && ps.covers(node) }
	done, err := s.through.wait(ctx, info.Path)
	if err != nil {
		return nil, err
	}
	defer done()
	if ps := s.through.find(info, wants); ps != nil {
		return ps, nil
	}
	from, to := int64(0), int64(0)
	switch {
	case info.NarSize <= maxThroughOne:
		to = int64(info.NarSize)
	case node == wholeTree:
	default:
		offsets, _, err := fileindex.Layout(tree)
		if err != nil {
			return nil, err
		}
		from, to = offsets[node], offsets[node]+tree.Node(node).Size
		if to-from > maxThroughOne {
			err := fmt.Errorf("'%s': %w, and the file '%s' of %d bytes is too large to be served from memory", info.Path, ErrDiskFull, tree.Path(node), to-from)
			s.complain("too large "+info.Path.Base(), err)
			return nil, err
		}
	}
	var errs []error
	for _, origin := range s.origins(ctx) {
		began := time.Now()
		ps, err := s.passFrom(ctx, origin, info, from, to)
		if err == nil {
			s.count.through.Add(1)
			s.complain("through", fmt.Errorf("%w: objects are served from memory, and not kept", ErrDiskFull))
			s.through.keep(ps)
			return ps, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		s.blame(origin, began, err)
		errs = append(errs, err)
	}
	err = s.unavailable(info.Path, errs)
	s.complain("fetch "+info.Path.Base(), err)
	return nil, err
}

// passFrom gets it from one origin.
func (s *Store) passFrom(ctx context.Context, from *origin, info *store.PathInfo, first, end int64) (*passing, error) {
	w := newWatchdog(ctx, s.o.Patience)
	defer w.stop()
	s.asked(from)
	r := w.pump(func(ctx context.Context) (io.ReadCloser, error) { return s.openFrom(store.Verifying(ctx), from, info) }, s.account(ctx))
	defer r.Close()
	sp, err := newSpool("", first, end)
	if err != nil {
		return nil, err
	}
	ps := &passing{spool: sp, info: info}
	if err := ps.fill(r); err != nil {
		return nil, w.explain(fmt.Errorf("from '%s': %w", from.Store.URI(), err))
	}
	return ps, nil
}

// fill reads and verifies the NAR.
func (ps *passing) fill(r io.Reader) error {
	h := nixhash.SHA256.New()
	limited := &io.LimitedReader{R: r, N: int64(min(ps.info.NarSize, 1<<62)) + 1}
	src := bufio.NewReaderSize(io.TeeReader(limited, io.MultiWriter(h, ps.spool)), 64<<10)
	contents, err := fileindex.Scan(src, nil)
	if err != nil {
		return err
	}
	if more, err := io.Copy(io.Discard, src); err != nil {
		return err
	} else if more > 0 || contents.NarSize() != ps.info.NarSize {
		return &store.SizeMismatchError{What: "of the NAR", Want: ps.info.NarSize, Got: contents.NarSize() + uint64(more)}
	}
	if got := nixhash.Sum(nixhash.SHA256, h); got != ps.info.NarHash {
		return &store.HashMismatchError{What: "of the NAR", Want: ps.info.NarHash, Got: got}
	}
	ps.tree = contents.Tree()
	ps.offsets, _, err = fileindex.Layout(ps.tree)
	return err
}

// readThrough reads from an object that the disk has no room for.
func (ob *object) readThrough(ctx context.Context, node uint32, p []byte, off int64) (int, error) {
	ps, err := ob.o.s.passThrough(ctx, ob.info, ob.tree, node)
	if err != nil {
		return 0, err
	}
	if err := ob.compare(ps.tree); err != nil {
		return 0, err
	}
	return ps.readAt(ctx, p, ps.offsets[node]+off)
}
