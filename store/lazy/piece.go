package lazy

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/store"
)

// pieceJob is a part of a NAR that is on its way.
type pieceJob struct {
	from, to int64
	ahead    bool  // nobody waited when it began: its failure is nobody's
	guessed  bool  // it is one of those that are counted
	chunks   []int // that are wanted of it, in the order of the NAR
	arrived  map[int]chan struct{}
	done     chan struct{}
	err      error
	waiting  int
	cancel   context.CancelFunc
}

// errTryAgain says that what failed was meant to come ahead, and can be asked for in earnest.
var errTryAgain = errors.New("what should have come ahead has not")

// fetch returns when a chunk is here, and asks for the ones behind it up to last with the same request. All who
// want a chunk wait for one transfer, which is given up when nobody waits any more.
func (pt *partial) fetch(ctx context.Context, i, last int) error {
	for {
		err := pt.join(ctx, i, last)
		if again := errors.Is(err, context.Canceled) || errors.Is(err, errTryAgain); !again || ctx.Err() != nil {
			return err
		}
	}
}

func (pt *partial) join(ctx context.Context, i, last int) error {
	pt.mu.Lock()
	switch {
	case pt.hasLocked(i):
		pt.mu.Unlock()
		return nil
	case pt.whole:
		pt.mu.Unlock()
		return errWhole
	case time.Now().Before(pt.failed.until):
		defer pt.mu.Unlock()
		return pt.failed.err
	}
	j := pt.jobs[i]
	var around int64
	if j == nil {
		j, around = pt.plan(i, last)
		pt.begin(ctx, j)
	}
	j.waiting++
	arrived := j.arrived[i]
	pt.mu.Unlock()
	pt.lookAround(i, around)
	select {
	case <-arrived:
	case <-j.done:
	case <-ctx.Done():
	}
	pt.mu.Lock()
	defer pt.mu.Unlock()
	j.waiting--
	select {
	case <-arrived:
		return nil // the rest may come as well: it was cheap to ask for
	default:
	}
	if j.waiting == 0 && !j.ahead {
		j.cancel()
	}
	select {
	case <-j.done:
		if j.ahead && !errors.Is(j.err, errWhole) {
			return errTryAgain
		}
		return j.err
	default:
		return ctx.Err()
	}
}

// begin starts a job. pt.mu is held.
func (pt *partial) begin(ctx context.Context, j *pieceJob) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	j.cancel = cancel
	if j.ahead && pt.o.life != nil {
		stop := context.AfterFunc(pt.o.life, cancel)
		j.cancel = func() { stop(); cancel() }
	}
	pt.o.fetch.idle.Go(func() { pt.run(work, j) })
}

// plan makes a job for a chunk and the ones up to last, with all that comes with them and what is likely to be
// wanted next. left is how much more of that may come by other requests. pt.mu is held.
func (pt *partial) plan(i, last int) (j *pieceJob, left int64) {
	c := pt.x.Contents
	for n := i + 1; n <= last; n++ {
		if pt.hasLocked(n) || pt.jobs[n] != nil {
			last = n - 1
		}
	}
	k, end := c.Chunk(i), c.Chunk(last)
	from, to := pt.x.Span(k.Nar, end.Nar+end.Size-k.Nar)
	pt.guess.note(k, i, to-from)
	room := pt.guess.room(pt.several(k), time.Now())
	more := to + room
	if begin, size := k.Nar-k.Offset, c.Tree().Node(k.Node).Size; room > 0 && k.Offset == 0 && pt.several(k) && size <= smallWhole {
		more = max(more, begin+size)
	}
	if more = pt.neighbours(i, to, more); more > to {
		_, more = pt.x.Span(from, more-from)
	}
	j = pt.jobOf(from, max(to, more))
	pt.suspect(j, to)
	return j, max(0, room-max(0, more-to))
}

// jobOf makes a job of the chunks of a part of the NAR that are neither here nor on their way. pt.mu is
// held.
func (pt *partial) jobOf(from, to int64) *pieceJob {
	j := &pieceJob{arrived: map[int]chan struct{}{}, done: make(chan struct{})}
	for n := range pt.x.Contents.Within(from, to) {
		if pt.hasLocked(n) || pt.jobs[n] != nil {
			continue
		}
		j.chunks = append(j.chunks, n)
		j.arrived[n] = make(chan struct{})
		pt.jobs[n] = j
	}
	if len(j.chunks) == 0 {
		return j
	}
	first, last := pt.x.Contents.Chunk(j.chunks[0]), pt.x.Contents.Chunk(j.chunks[len(j.chunks)-1])
	j.from, j.to = first.Nar, last.Nar+last.Size
	return j
}

// run does a job.
func (pt *partial) run(ctx context.Context, j *pieceJob) {
	defer j.cancel()
	err := pt.obtain(ctx, j)
	pt.mu.Lock()
	defer pt.mu.Unlock()
	for _, n := range j.chunks {
		if pt.jobs[n] == j {
			delete(pt.jobs, n)
			pt.guess.lost(pt.x.Contents.Chunk(n), n)
		}
	}
	if err != nil {
		pt.guess.filled = [2]filled{}
	}
	if err != nil && ctx.Err() == nil {
		pt.guess.calm = time.Now().Add(failurePause)
		switch {
		case errors.Is(err, errWhole):
			pt.whole = true
		case !j.ahead:
			pt.failed = failure{err, time.Now().Add(failurePause)}
		}
	}
	if j.guessed {
		pt.guess.flying--
	}
	j.err = err
	close(j.done)
}

// obtain gets the chunks of a job from the first origin that gives them as they should be.
func (pt *partial) obtain(ctx context.Context, j *pieceJob) error {
	s := pt.o.s
	pt.keepIndex()
	var errs []error
	others, wrong := false, false
	for _, from := range s.origins(ctx) {
		ranges, ok := store.As[RangeOpener](from.Store)
		if !ok {
			others = true
			continue
		}
		began := time.Now()
		err := pt.obtainFrom(ctx, from, ranges, j)
		var lacks *store.InvalidPathError
		var garbled *compress.Error
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, store.ErrUnsupported):
			others = true
			continue
		case isWrong(err), errors.As(err, &garbled), errors.Is(err, io.ErrUnexpectedEOF):
			wrong = true
			s.count.refused.Add(1)
		}
		if !errors.As(err, &lacks) {
			s.blame(from, began, err)
		}
		errs = append(errs, err)
	}
	if wrong {
		pt.mu.Lock()
		pt.wrong = true
		pt.mu.Unlock()
		s.complain("parts of "+pt.info.Path.Base(), fmt.Errorf("'%s' is fetched as a whole, as parts of it are not what its index says: %w", pt.info.Path, oneLine(errs)))
	}
	if others || wrong {
		return errWhole
	}
	err := s.unavailable(pt.info.Path, errs)
	s.count.failed.Add(1)
	s.complain("fetch "+pt.info.Path.Base(), err)
	return err
}

// obtainFrom gets what is still missing of a job from one origin.
func (pt *partial) obtainFrom(ctx context.Context, from *origin, ranges RangeOpener, j *pieceJob) error {
	s := pt.o.s
	todo := slices.DeleteFunc(slices.Clone(j.chunks), pt.has)
	if len(todo) == 0 {
		return nil
	}
	at := pt.x.Contents.Chunk(todo[0]).Nar
	w := newWatchdog(ctx, s.o.Patience)
	defer w.stop()
	s.asked(from)
	begin := at
	r := w.pump(func(ctx context.Context) (io.ReadCloser, error) {
		return ranges.OpenNarRange(ctx, pt.x, begin, j.to-begin)
	}, s.account(ctx))
	defer r.Close()
	for _, n := range todo {
		k := pt.x.Contents.Chunk(n)
		if _, err := io.CopyN(io.Discard, r, k.Nar-at); err != nil {
			return w.explain(fmt.Errorf("from '%s': %w", from.Store.URI(), cutShort(err)))
		}
		data := make([]byte, k.Size)
		if _, err := io.ReadFull(r, data); err != nil {
			return w.explain(fmt.Errorf("from '%s': %w", from.Store.URI(), cutShort(err)))
		}
		at = k.Nar + k.Size
		if sha256.Sum256(data) != k.Digest {
			return fmt.Errorf("from '%s': %w", from.Store.URI(), pt.mismatch(k, data))
		}
		pt.put(j, n, k, data, from.Store.URI())
	}
	return nil
}

func cutShort(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
