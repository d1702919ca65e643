package lazy

import (
	"context"
	"errors"
	"io/fs"
	"sync"

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

	mu     sync.Mutex
	have   []uint64 // a bit for each chunk that is here and was compared by this process
	left   int      // chunks without one
	kept   bool     // the index is in the cache
	from   string   // the URI of who gave something of it
	whole  bool     // nobody gives parts
	wrong  bool     // some that came were not what they should be
	jobs   map[int]*pieceJob
	fresh  map[int][]byte // chunks that are not on disk yet
	busy   int            // chunks that are being brought there, or files of them completed
	idle   chan struct{}  // closed when there is nothing more to do; nil: nobody waits for that
	unkept map[int][]byte // chunks that could not be kept, a few of them
	holes  map[uint32]int // of files: a chunk that was not on disk when that was looked at last
	failed failure
	guess  guessing

	graduating int // attempts to make it a complete object
}

// partialOf makes it of an index that can be believed; nil if there is none. Who asks at the same time gets the
// same.
func (o *Objects) partialOf(ctx context.Context, info *store.PathInfo) *partial {
	found := o.asking.DoChan(info.Path.Base()+info.NarHash.String(), func() (any, error) {
		return o.newPartial(context.WithoutCancel(ctx), info), nil
	})
	select {
	case f := <-found:
		return f.Val.(*partial)
	case <-ctx.Done():
		return nil
	}
}

func (o *Objects) newPartial(ctx context.Context, info *store.PathInfo) *partial {
	x, signed, kept := o.s.indexOf(ctx, info)
	if x == nil {
		return nil
	}
	n := x.Contents.Len()
	return &partial{
		o: o, info: info, x: x, signed: signed, have: make([]uint64, (n+63)/64), left: n, kept: kept,
		jobs: map[int]*pieceJob{}, fresh: map[int][]byte{}, unkept: map[int][]byte{}, holes: map[uint32]int{}, guess: newGuessing(n),
	}
}

// readAt reads from a file; p does not go beyond its end, and is not empty. errWhole: fetch the whole object.
func (pt *partial) readAt(ctx context.Context, node uint32, p []byte, off int64) (int, error) {
	c := pt.x.Contents
	first, _ := c.Chunks(node)
	last := first + int((off+int64(len(p))-1)/fileindex.ChunkSize)
	first += int(off / fileindex.ChunkSize)
	for i := first; i <= last; i++ {
		pt.look(i)
	}
	done := 0
	for i := first; i <= last; i++ {
		k := c.Chunk(i)
		b := p[done:min(len(p), done+int(k.Offset+k.Size-off-int64(done)))]
		if err := pt.readChunk(ctx, i, last, k, b, off+int64(done)); err != nil {
			return done, err
		}
		done += len(b)
	}
	return done, nil
}

// look finds out whether a chunk is in the cache that this process has not seen there yet.
func (pt *partial) look(i int) (here bool) {
	if pt.has(i) {
		return true
	}
	_, here = pt.o.s.o.Cache.readChunk(pt.x.Contents, pt.x.Contents.Chunk(i))
	if here {
		pt.mark(i)
	}
	return here
}

// readChunk reads from one chunk, which is fetched if it is not here, with the others up to last. off counts from the
// beginning of the file.
func (pt *partial) readChunk(ctx context.Context, i, last int, k fileindex.Chunk, b []byte, off int64) error {
	for range 3 { // it may be evicted as soon as it has come
		if !pt.look(i) {
			if err := pt.fetch(ctx, i, last); err != nil {
				return err
			}
		}
		if data := pt.inMemory(i); data != nil {
			copy(b, data[off-k.Offset:])
			pt.used(i)
			return nil
		}
		err := pt.o.s.o.Cache.readPiece(pt.x.Contents, k, b, off)
		if err == nil {
			pt.used(i)
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		pt.unmark(i)
	}
	return errWhole
}

// doubted tells whether something has come of the object that was not as its index says.
func (pt *partial) doubted() bool {
	pt.mu.Lock()
	defer pt.mu.Unlock()
	return pt.wrong
}

// inMemory is a chunk that is not on disk; nil if it is, or is not here.
func (pt *partial) inMemory(i int) []byte {
	pt.mu.Lock()
	defer pt.mu.Unlock()
	if data := pt.fresh[i]; data != nil {
		return data
	}
	return pt.unkept[i]
}

func (pt *partial) has(i int) bool {
	pt.mu.Lock()
	defer pt.mu.Unlock()
	return pt.hasLocked(i)
}

func (pt *partial) hasLocked(i int) bool { return bit(pt.have, i) }

// mark notes that a chunk is here and was compared.
func (pt *partial) mark(i int) {
	pt.mu.Lock()
	defer pt.mu.Unlock()
	pt.markLocked(i)
	pt.ended()
}

func (pt *partial) markLocked(i int) {
	if !pt.hasLocked(i) {
		pt.have[i/64] |= 1 << (i % 64)
		pt.left--
	}
}

// ended makes the object a complete one if all of it is on disk. pt.mu is held.
func (pt *partial) ended() {
	if pt.left == 0 && pt.busy == 0 && len(pt.unkept) == 0 {
		pt.graduating++
		pt.o.fetch.idle.Go(func() {
			pt.graduate()
			pt.mu.Lock()
			defer pt.mu.Unlock()
			pt.graduating--
			pt.rest()
		})
	}
}

func (pt *partial) unmark(i int) {
	pt.mu.Lock()
	defer pt.mu.Unlock()
	if pt.hasLocked(i) {
		pt.have[i/64] &^= 1 << (i % 64)
		pt.left++
		pt.guess.filled = [2]filled{}
	}
}

// unmarkFile forgets what was here of a file.
func (pt *partial) unmarkFile(node uint32) {
	first, end := pt.x.Contents.Chunks(node)
	for i := first; i < end; i++ {
		pt.unmark(i)
	}
}

func bit(bits []uint64, i int) bool { return bits[i/64]&(1<<(i%64)) != 0 }
