package lazy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// ErrUnavailable: no origin could give an object.
var ErrUnavailable = errors.New("object cannot be had")

// errStalled ends a transfer that makes no progress.
var errStalled = errors.New("nothing has come for too long")

// fetcher makes objects come, each once for all who wait for it.
type fetcher struct {
	s *Store

	mu     sync.Mutex
	jobs   map[storepath.Path]*job
	failed map[storepath.Path]failure
	// refused are those of which somebody read what was wrong, and spoilt is told of them.
	refused map[storepath.Path]error
	spoilt  func(storepath.Path, *stream)
	idle    sync.WaitGroup      // until nothing is on its way to the disk
	fresh   *semaphore.Weighted // bytes of chunks that are on their way there
	writing chan struct{}
}

// job is an object that is on its way.
type job struct {
	done    chan struct{} // closed when the outcome is certain
	err     error         // if so
	waiting int
	wanted  bool // by somebody who has asked for it
	cancel  context.CancelFunc
	stream  *stream // what readers get meanwhile; nil: nothing
}

// failure is why an object could not be had a moment ago. Whoever asks again at once gets the
// same answer, so that a hundred readers do not make a hundred attempts.
type failure struct {
	err   error
	until time.Time
}

// failurePause is for how long nothing is tried again that failed.
const failurePause = 5 * time.Second

func newFetcher(s *Store) *fetcher {
	return &fetcher{s: s, jobs: map[storepath.Path]*job{}, failed: map[storepath.Path]failure{}, refused: map[storepath.Path]error{},
		fresh: semaphore.NewWeighted(maxFresh), writing: make(chan struct{}, writers)}
}

// fetch returns when the object is here, verified. When nobody waits for it any more, it is given up.
func (f *fetcher) fetch(ctx context.Context, info *store.PathInfo) error {
	return f.fetchFor(ctx, info, true)
}

// fetchEarly is fetch for an object that nobody has asked for yet: should it fail, whoever does so soon has it tried
// again.
func (f *fetcher) fetchEarly(ctx context.Context, info *store.PathInfo) error {
	if f.s.o.Cache.Has(info.Path) {
		return nil
	}
	return f.fetchFor(ctx, info, false)
}

func (f *fetcher) fetchFor(ctx context.Context, info *store.PathInfo, wanted bool) error {
	for {
		err := f.join(ctx, info, wanted)
		if !errors.Is(err, context.Canceled) || ctx.Err() != nil {
			return err
		}
		// It was given up in the moment in which we came.
	}
}

func (f *fetcher) join(ctx context.Context, info *store.PathInfo, wanted bool) error {
	p := info.Path
	f.mu.Lock()
	if err := f.past(p); err != nil {
		f.mu.Unlock()
		return err
	}
	j := f.jobs[p]
	if j == nil {
		j = f.begin(ctx, info, nil)
	}
	j.waiting++
	j.wanted = j.wanted || wanted
	f.mu.Unlock()
	select {
	case <-j.done:
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if j.waiting--; j.waiting == 0 {
		j.cancel()
	}
	select {
	case <-j.done:
		return j.err
	default:
		return ctx.Err()
	}
}

// past tells why an object cannot be had, if that is known. f.mu is held.
func (f *fetcher) past(p storepath.Path) error {
	if err := f.refused[p]; err != nil {
		return err
	}
	past, ok := f.failed[p]
	if !ok {
		return nil
	}
	if time.Now().Before(past.until) {
		return past.err
	}
	delete(f.failed, p)
	return nil
}

// begin begins a job. f.mu is held.
func (f *fetcher) begin(ctx context.Context, info *store.PathInfo, st *stream) *job {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	j := &job{done: make(chan struct{}), cancel: cancel, stream: st}
	f.jobs[info.Path] = j
	f.idle.Go(func() { f.run(work, j, info) })
	return j
}

// run does a job. The object can be read as soon as it is verified; to bring it to disk may
// take as long as it likes.
func (f *fetcher) run(ctx context.Context, j *job, info *store.PathInfo) {
	p := info.Path
	finish := func(err error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.jobs[p] == j {
			delete(f.jobs, p)
		}
		if err != nil && ctx.Err() == nil && !isFull(err) {
			f.s.count.failed.Add(1)
		}
		if err != nil && ctx.Err() == nil && j.wanted {
			f.failed[p] = failure{err, time.Now().Add(failurePause)}
		}
		j.err = err
		close(j.done)
	}
	lock, err := f.s.o.Cache.lockFetch(ctx, p)
	if err != nil {
		j.noStream()
		finish(err)
		return
	}
	defer fetching{lock}.done()
	if f.s.o.Cache.Has(p) { // another process was quicker
		j.noStream()
		finish(nil)
		return
	}
	st, err := f.s.obtain(ctx, info, j.stream)
	if err = f.endStream(j, p, err); err != nil {
		if ctx.Err() == nil && !isFull(err) {
			f.s.complain("fetch "+p.Base(), err)
		}
		finish(err)
		return
	}
	c := f.s.o.Cache
	c.stage(st)
	finish(nil)
	err = st.publish()
	if isFull(err) && f.s.makeRoom(ctx, info) {
		err = st.publish()
	}
	if err != nil {
		f.s.complain("keep "+p.Base(), fmt.Errorf("'%s' is not kept: %w", p, err))
		f.mu.Lock()
		f.failed[p] = failure{err, time.Now().Add(failurePause)}
		f.mu.Unlock()
	}
	c.unstage(st)
}

// lockFetch keeps other processes from fetching the same object.
func (c *Cache) lockFetch(ctx context.Context, p storepath.Path) (*flock.Lock, error) {
	return flock.OpenLive(ctx, c.at(fetchDir, p.HashPart()), nil)
}

// stage makes a verified object readable that is not published yet.
func (c *Cache) stage(st *stage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.staged[st.info.Path] = st
}

func (c *Cache) unstage(st *stage) {
	c.mu.Lock()
	delete(c.staged, st.info.Path)
	c.mu.Unlock()
	st.remove()
}

// obtain gets an object from the first origin that gives the promised one.
func (s *Store) obtain(ctx context.Context, info *store.PathInfo, to *stream) (*stage, error) {
	var errs []error
	for _, from := range s.origins(ctx) {
		began := time.Now()
		st, err := s.obtainFrom(ctx, from, info, to)
		if isFull(err) && s.makeRoom(ctx, info) {
			st, err = s.obtainFrom(ctx, from, info, to)
		}
		if err == nil {
			s.count.fetched.Add(1)
			return st, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		errs = append(errs, err)
		if isFull(err) {
			break // that is not the origin's fault
		}
		if lacks := new(store.InvalidPathError); !errors.As(err, &lacks) {
			s.blame(from, began, err)
		}
		if isWrong(err) {
			s.count.refused.Add(1)
			if to != nil && to.anyServed() {
				break // nobody can take back what was read
			}
		}
	}
	return nil, s.unavailable(info.Path, errs)
}

// isWrong tells whether something came that was not what was promised.
func isWrong(err error) bool {
	var hash *store.HashMismatchError
	var size *store.SizeMismatchError
	return errors.As(err, &hash) || errors.As(err, &size)
}

func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// makeRoom evicts others on a full disk, and tells whether something went.
func (s *Store) makeRoom(ctx context.Context, info *store.PathInfo) bool {
	out, err := s.o.Cache.Evict(ctx, EvictOptions{Room: int64(min(info.NarSize+info.NarSize/4, 1<<62))})
	if err != nil {
		s.o.Log.Warn(fmt.Sprintf("making room on a full disk: %v", err))
		return false
	}
	return len(out.Paths) > 0
}

// obtainFrom gets an object from one origin, into a stage, verified.
func (s *Store) obtainFrom(ctx context.Context, from *origin, info *store.PathInfo, to *stream) (_ *stage, err error) {
	w := newWatchdog(ctx, s.o.Patience)
	defer w.stop()
	r := w.pump(func(ctx context.Context) (io.ReadCloser, error) { return s.openFrom(store.Verifying(ctx), from, info) }, s.account(ctx))
	defer r.Close()
	st, err := s.o.Cache.newStage(info)
	if err != nil {
		return nil, err
	}
	s.asked(from)
	st.origin = from.Store.URI()
	var src io.Reader = r
	if to != nil {
		to.restart()
		src = io.TeeReader(r, to)
	}
	if err := st.unpack(w.ctx, src); err != nil {
		st.remove()
		return nil, w.explain(fmt.Errorf("from '%s': %w", from.Store.URI(), err))
	}
	return st, nil
}

// unavailable says why nobody could give an object.
func (s *Store) unavailable(p storepath.Path, errs []error) error {
	if len(errs) == 0 {
		why := "no cache has it"
		if s.o.Offline {
			why = "it is not here, and nobody may be asked"
		}
		return fmt.Errorf("'%s': %w: %s", s.o.Dir.Print(p), ErrUnavailable, why)
	}
	return fmt.Errorf("'%s': %w: %w", s.o.Dir.Print(p), ErrUnavailable, oneLine(errs))
}

// oneLine joins errors in a line.
func oneLine(errs []error) error {
	err := errs[0]
	for _, e := range errs[1:] {
		err = fmt.Errorf("%w; %w", err, e)
	}
	return err
}

// watchdog ends a transfer that makes no progress.
type watchdog struct {
	ctx      context.Context //nolint:containedctx // of the one transfer that this is
	cancel   context.CancelCauseFunc
	timer    *time.Timer
	patience time.Duration
}

func newWatchdog(ctx context.Context, patience time.Duration) *watchdog {
	w := &watchdog{patience: patience}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(patience, func() { w.cancel(errStalled) })
	return w
}

func (w *watchdog) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// explain says that it was the watchdog, if it was.
func (w *watchdog) explain(err error) error {
	if errors.Is(context.Cause(w.ctx), errStalled) && !errors.Is(err, errStalled) {
		return fmt.Errorf("%w (%s): %w", errStalled, w.patience, err)
	}
	return err
}

// pump reads what open opens in a goroutine of its own, tells the watchdog of what comes and counts
// it. So whoever reads is not held up by a source that heeds no context, as a file
// on a server that is gone; only the goroutine is, which closes it.
func (w *watchdog) pump(open func(context.Context) (io.ReadCloser, error), count func(bytes int)) io.ReadCloser {
	pr, pw := io.Pipe()
	stop := context.AfterFunc(w.ctx, func() { _ = pw.CloseWithError(context.Cause(w.ctx)) })
	go func() {
		defer stop()
		r, err := open(w.ctx)
		if err == nil {
			_, err = io.CopyBuffer(progress{pw, w, count}, plainReader{r}, make([]byte, 64<<10))
			err = errors.Join(err, r.Close())
		}
		_ = pw.CloseWithError(err)
	}()
	return pr
}

// plainReader hides all abilities but one.
type plainReader struct{ io.Reader }

// progress is the watchdog's view of what is read.
type progress struct {
	io.Writer
	w     *watchdog
	count func(bytes int)
}

func (p progress) Write(b []byte) (int, error) {
	p.w.timer.Reset(p.w.patience)
	p.count(len(b))
	return p.Writer.Write(b)
}
