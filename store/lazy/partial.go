package lazy

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/fileindex"
	"github.com/strata-nix/strata/store"
)

// errWhole says that an object cannot be had in parts: it must be fetched as a whole.
var errWhole = errors.New("the object can only be had as a whole")

// partial is an object whose files come one by one, as an index that was believed describes
// them. Each chunk is compared before anybody gets a byte of it.
type partial struct {
	o    *Objects
	info *store.PathInfo
	x    *fileindex.Index
	// signed is x as it came.
	signed *fileindex.Signed

	mu       sync.Mutex
	have     []uint64 // a bit for each chunk that is here and was compared by this process
	left     int      // chunks without one
	kept     bool     // the index is in the cache
	from     string   // the URI of who gave something of it
	whole    bool     // nobody gives parts
	jobs     map[int]*pieceJob
	through  map[int][]byte // chunks that could not be kept, a few of them
	failed   failure
	expected int64 // where the next fetch begins if somebody reads on and on
	window   int64 // bytes that are fetched then
	around   locality
}

// pieceJob is a part of a NAR that is on its way.
type pieceJob struct {
	from, to int64
	chunks   []int // that are wanted of it, in the order of the NAR
	arrived  map[int]chan struct{}
	done     chan struct{}
	err      error
	waiting  int
	cancel   context.CancelFunc
}

// Bounds of what is fetched ahead in a file that is read from its beginning on, in bytes.
const (
	firstWindow = 256 << 10
	maxWindow   = 8 << 20
)

// maxThrough is how many chunks are kept in memory that the disk had no room for.
const maxThrough = 64

// partialOf makes it of an index that can be believed; nil if there is none.
func (o *Objects) partialOf(ctx context.Context, info *store.PathInfo) *partial {
	x, signed, kept := o.s.indexOf(ctx, info)
	if x == nil {
		return nil
	}
	n := x.Contents.Len()
	return &partial{
		o: o, info: info, x: x, signed: signed, have: make([]uint64, (n+63)/64), left: n, kept: kept,
		jobs: map[int]*pieceJob{}, through: map[int][]byte{}, expected: -1,
	}
}

// readAt reads from a file; p does not go beyond its end. errWhole: fetch the whole object.
func (pt *partial) readAt(ctx context.Context, node uint32, p []byte, off int64) (int, error) {
	c := pt.x.Contents
	first, _ := c.Chunks(node)
	done := 0
	for done < len(p) {
		i := first + int((off+int64(done))/fileindex.ChunkSize)
		k := c.Chunk(i)
		b := p[done:min(len(p), done+int(k.Offset+k.Size-off-int64(done)))]
		if err := pt.readChunk(ctx, i, k, b, off+int64(done)); err != nil {
			return done, err
		}
		done += len(b)
	}
	return done, nil
}

// readChunk reads from one chunk, which is fetched if it is not here. off counts from the beginning of the file.
func (pt *partial) readChunk(ctx context.Context, i int, k fileindex.Chunk, b []byte, off int64) error {
	for range 3 { // it may be evicted as soon as it has come
		if !pt.has(i) {
			if data, ok := pt.o.s.o.Cache.readChunk(pt.x.Contents, k); ok {
				pt.mark(i)
				copy(b, data[off-k.Offset:])
				return nil
			}
			if err := pt.fetch(ctx, i); err != nil {
				return err
			}
		}
		pt.mu.Lock()
		data := pt.through[i]
		pt.mu.Unlock()
		if data != nil {
			copy(b, data[off-k.Offset:])
			return nil
		}
		err := pt.o.s.o.Cache.readPiece(pt.x.Contents, k, b, off)
		if err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		pt.unmark(i)
	}
	return errWhole
}

func (pt *partial) has(i int) bool {
	pt.mu.Lock()
	defer pt.mu.Unlock()
	return pt.hasLocked(i)
}

func (pt *partial) hasLocked(i int) bool { return pt.have[i/64]&(1<<(i%64)) != 0 }

// mark notes that a chunk is here and was compared.
func (pt *partial) mark(i int) {
	pt.mu.Lock()
	if !pt.hasLocked(i) {
		pt.have[i/64] |= 1 << (i % 64)
		pt.left--
	}
	full := pt.left == 0 && len(pt.through) == 0
	pt.mu.Unlock()
	if full {
		pt.o.fetch.idle.Go(pt.graduate)
	}
}

func (pt *partial) unmark(i int) {
	pt.mu.Lock()
	defer pt.mu.Unlock()
	if pt.hasLocked(i) {
		pt.have[i/64] &^= 1 << (i % 64)
		pt.left++
	}
}

// unmarkFile forgets what was here of a file.
func (pt *partial) unmarkFile(node uint32) {
	first, end := pt.x.Contents.Chunks(node)
	for i := first; i < end; i++ {
		pt.unmark(i)
	}
}

// fetch returns when a chunk is here. All who want it wait for one transfer, which is given up when nobody
// waits any more.
func (pt *partial) fetch(ctx context.Context, i int) error {
	for {
		err := pt.join(ctx, i)
		if !errors.Is(err, context.Canceled) || ctx.Err() != nil {
			return err
		}
	}
}

func (pt *partial) join(ctx context.Context, i int) error {
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
	if j == nil {
		work, cancel := context.WithCancel(context.WithoutCancel(ctx))
		j = pt.plan(i)
		j.cancel = cancel
		pt.o.fetch.idle.Go(func() { pt.run(work, j) })
	}
	j.waiting++
	arrived := j.arrived[i]
	pt.mu.Unlock()
	select {
	case <-arrived:
	case <-j.done:
	case <-ctx.Done():
	}
	pt.mu.Lock()
	defer pt.mu.Unlock()
	select {
	case <-arrived:
		j.waiting--
		return nil // the rest may come as well: it was cheap to ask for
	default:
	}
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

// plan makes a job for a chunk and all that comes with it, and more if somebody reads on where the last one ended.
func (pt *partial) plan(i int) *pieceJob {
	k := pt.x.Contents.Chunk(i)
	from, to := pt.x.Span(k.Nar, k.Size)
	if k.Offset > 0 && pt.expected == from {
		pt.window = min(max(2*pt.window, firstWindow), maxWindow)
		end := min(k.Nar-k.Offset+pt.x.Contents.Tree().Node(k.Node).Size, from+pt.window)
		if end > to {
			_, to = pt.x.Span(from, end-from)
		}
	} else {
		pt.window = 0
		if more := pt.around.more(from, to); more > 0 {
			if end := pt.neighbours(to, to+more); end > to {
				_, to = pt.x.Span(from, end-from)
			}
		}
	}
	j := pt.jobOf(from, to)
	pt.expected = to
	return j
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
		}
	}
	if err != nil && ctx.Err() == nil {
		switch {
		case errors.Is(err, errWhole):
			pt.whole = true
		default:
			pt.failed = failure{err, time.Now().Add(failurePause)}
		}
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
			s.blame(from, err)
		}
		errs = append(errs, err)
	}
	if wrong {
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
		pt.store(n, k, data)
		pt.mu.Lock()
		pt.from = from.Store.URI()
		pt.mu.Unlock()
		pt.arrive(j, n)
	}
	return nil
}

func cutShort(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// arrive lets go on who waits for a chunk.
func (pt *partial) arrive(j *pieceJob, n int) {
	pt.mu.Lock()
	delete(pt.jobs, n)
	close(j.arrived[n])
	pt.mu.Unlock()
}

// store keeps a chunk that was compared. What the disk has no room for is kept in memory for a while.
func (pt *partial) store(n int, k fileindex.Chunk, data []byte) {
	c := pt.o.s.o.Cache
	err := c.writeChunk(pt.x.Contents, k, data)
	if err == nil && pt.lastOf(n, k) {
		if err = c.completeFile(context.Background(), pt.x.Contents, k.Node); errors.Is(err, errHoles) || errors.Is(err, fs.ErrNotExist) {
			pt.unmarkFile(k.Node)
			err = nil
		}
	}
	if err != nil {
		pt.o.s.count.through.Add(1)
		pt.o.s.complain("keep "+c.Dir(), fmt.Errorf("files are not kept in '%s': %w", c.Dir(), err))
		pt.mu.Lock()
		for old := range pt.through { // any will do
			if len(pt.through) < maxThrough {
				break
			}
			delete(pt.through, old)
			if pt.hasLocked(old) {
				pt.have[old/64] &^= 1 << (old % 64)
				pt.left++
			}
		}
		pt.through[n] = data
		pt.mu.Unlock()
	}
	pt.mark(n)
}

// lastOf tells whether a chunk is the last one that was missing of a file of several.
func (pt *partial) lastOf(n int, k fileindex.Chunk) bool {
	first, end := pt.x.Contents.Chunks(k.Node)
	if end-first == 1 {
		return false
	}
	pt.mu.Lock()
	defer pt.mu.Unlock()
	for i := first; i < end; i++ {
		if i != n && (!pt.hasLocked(i) || pt.through[i] != nil) {
			return false
		}
	}
	return true
}
