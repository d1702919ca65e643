package main

import (
	"context"
	"io"
	"sync"
)

// Of reading ahead: how many are reading at once, and how much of each object is
// kept that nobody wants yet, in bytes.
const (
	aheadReaders = 8
	aheadChunk   = 256 << 10
	aheadChunks  = 16
)

// Small objects are read several by one reader, which takes longer to start than
// one of them to read.
const (
	aheadSmall = 32 << 10 // bytes of a NAR
	aheadMany  = 16
)

// aheadReader reads something before it is wanted, up to a limit. It is given what
// opens it, and begins when the one before it has begun to give something: so it
// never holds a connection for which that one still waits.
type aheadReader struct {
	ctx    context.Context //nolint:containedctx // lives as long as the reader
	cancel context.CancelFunc
	open   func(context.Context) (io.ReadCloser, error)
	size   int           // of a chunk
	chunks chan []byte   // closed at the end, after err is set
	begun  chan struct{} // closed when there is something, or will be nothing
	err    error         // io.EOF, if all went well

	rest []byte // of the chunk that is being given out
	full []byte // that chunk, to be used again
}

// chunkPool has buffers for all of them.
var chunkPool = sync.Pool{New: func() any { return new([aheadChunk]byte) }}

// newAheadReader gives a reader of something with size bytes, which somebody has
// to run. The caller closes it, which waits for what it does to end.
func newAheadReader(ctx context.Context, size uint64, open func(context.Context) (io.ReadCloser, error)) *aheadReader {
	a := &aheadReader{open: open, size: int(min(size+1, aheadChunk)), begun: make(chan struct{})} //nolint:gosec // not more than a chunk
	a.ctx, a.cancel = context.WithCancel(ctx)
	a.chunks = make(chan []byte, aheadChunks)
	return a
}

// readAhead begins with the first of some readers when after is closed, and goes
// on with one after the other.
func readAhead(after <-chan struct{}, readers []*aheadReader) {
	go func() {
		for _, a := range readers {
			a.run(after)
			after = a.begun
		}
	}()
}

func (a *aheadReader) run(after <-chan struct{}) {
	defer close(a.chunks)
	begun := sync.OnceFunc(func() { close(a.begun) })
	defer begun()
	a.err = func() error {
		select {
		case <-after:
		case <-a.ctx.Done():
			return context.Cause(a.ctx)
		}
		r, err := a.open(a.ctx)
		if err != nil {
			return err
		}
		defer r.Close()
		return a.fill(a.ctx, r, begun)
	}()
}

// fill reads up to the end, which is io.EOF if it is a good one.
func (a *aheadReader) fill(ctx context.Context, r io.Reader, begun func()) error {
	for {
		buf := a.buffer()
		n, err := 0, error(nil)
		for n < len(buf) && err == nil {
			var k int
			k, err = r.Read(buf[n:])
			n += k
		}
		if n > 0 {
			begun()
			select {
			case a.chunks <- buf[:n]:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if err != nil {
			return err
		}
	}
}

// buffer is for the next chunk. What is small has one of its own size, with room to
// see that it ends.
func (a *aheadReader) buffer() []byte {
	if a.size < aheadChunk {
		return make([]byte, a.size)
	}
	return chunkPool.Get().(*[aheadChunk]byte)[:] //nolint:forcetypeassert // nothing else is put there
}

// Read gives what has been read.
func (a *aheadReader) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		a.giveBack()
		chunk, ok := <-a.chunks
		if !ok {
			return 0, a.err
		}
		a.rest, a.full = chunk, chunk
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

func (a *aheadReader) giveBack() {
	if a.full != nil && a.size == aheadChunk {
		chunkPool.Put((*[aheadChunk]byte)(a.full[:aheadChunk]))
	}
	a.full = nil
}

// Close ends the reading.
func (a *aheadReader) Close() error {
	a.cancel()
	for range a.chunks { // until it has ended
	}
	a.giveBack()
	return nil
}
