package lazy

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/strata-nix/strata/fileindex"
	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// ErrRefused: contents were given out before they were compared, and were not those that had been promised.
var ErrRefused = errors.New("object is refused: what came of it was not what was signed")

// stream is an object that readers get while it comes, before anybody can tell whether it is the right
// one. Only VerifyStream makes them.
type stream struct {
	*spool
	offsets []int64 // of the tree that readers go by

	served sync.Map // nodes of which something was given out
}

// newStream makes one for an object of which somebody has told the tree; nil if it cannot be.
func (s *Store) newStream(info *store.PathInfo, tree *fusefs.Tree) *stream {
	offsets, size, err := fileindex.Layout(tree)
	if err != nil || size != info.NarSize {
		return nil
	}
	sp, err := newSpool(s.o.Cache.at(tmpDir), 0, int64(size))
	if err != nil {
		s.o.Log.Debug(fmt.Sprintf("'%s' is not streamed: %v", info.Path, err))
		return nil
	}
	return &stream{spool: sp, offsets: offsets}
}

// anyServed tells whether somebody has got something.
func (st *stream) anyServed() (yes bool) {
	st.served.Range(func(_, _ any) bool { yes = true; return false })
	return yes
}

// streams tells whether an object comes as a stream now.
func (f *fetcher) streams(p storepath.Path) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	j := f.jobs[p]
	return j != nil && j.stream != nil
}

// streaming is the stream of an object, which begins to come if it does not yet; nil if it has to be waited for as a
// whole.
func (f *fetcher) streaming(ctx context.Context, info *store.PathInfo, tree *fusefs.Tree) (*stream, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.past(info.Path); err != nil {
		return nil, err
	}
	j := f.jobs[info.Path]
	if j == nil {
		j = f.begin(ctx, info, f.s.newStream(info, tree))
		j.wanted = true
		j.waiting++ // it comes to its end, however early its readers have enough
	}
	return j.stream, nil
}

// readStream reads from an object that is streamed; ok is false if it is not. What can be compared in parts is not
// streamed, unless it turns out that it comes only as a whole.
func (ob *object) readStream(ctx context.Context, whole bool, node uint32, p []byte, off int64) (n int, ok bool, err error) {
	if ob.o.s.o.Verify != VerifyStream || ob.o.s.o.Cache.Has(ob.info.Path) {
		return 0, false, nil
	}
	if !ob.o.fetch.streams(ob.info.Path) {
		if pt := ob.parts(ctx); pt != nil && (!whole || pt.doubted()) {
			return 0, false, nil
		}
	}
	st, err := ob.o.fetch.streaming(ctx, ob.info, ob.tree)
	if st == nil || err != nil {
		return 0, err != nil, err
	}
	st.served.Store(node, nil)
	n, err = st.readAt(ctx, p, st.offsets[node]+off)
	if errors.Is(err, errStreamBroken) {
		return 0, false, nil // it may come from elsewhere, or be told why not
	}
	return n, true, err
}

// errStreamBroken ends the wait for a stream of which no more comes.
var errStreamBroken = errors.New("the stream has ended too early")

// noStream makes those who wait for the stream of a job look elsewhere: nothing comes.
func (j *job) noStream() {
	if j.stream != nil {
		j.stream.end(errStreamBroken)
	}
}

// endStream ends the stream of a job, if it is one. When somebody has read what turned out to be wrong,
// nobody gets anything of the object any more, and the kernel forgets what it has.
func (f *fetcher) endStream(j *job, p storepath.Path, err error) error {
	if j.stream == nil || err == nil {
		return err
	}
	if isWrong(err) && j.stream.anyServed() {
		err = fmt.Errorf("%w: %w", ErrRefused, err)
		f.mu.Lock()
		f.refused[p] = err
		f.mu.Unlock()
		if f.spoilt != nil {
			f.spoilt(p, j.stream)
		}
	}
	j.stream.end(errStreamBroken)
	return err
}

// forget makes the kernel forget what it got of a stream that was wrong.
func (o *Objects) forget(p storepath.Path, st *stream) {
	number := o.numbers.lastOf(p)
	o.mu.Lock()
	st.served.Range(func(node, _ any) bool {
		o.spoilt = append(o.spoilt, fusefs.NodeID(number, node.(uint32)))
		return true
	})
	o.mu.Unlock()
	select {
	case o.changed <- struct{}{}:
	default:
	}
}
