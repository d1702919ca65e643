package main

import (
	"context"
	"io"
	"sync"
)

// Of reading ahead: how many objects are being read at once, and how much of each
// is kept that nobody wants yet, in bytes.
const (
	aheadObjects = 8
	aheadChunk   = 256 << 10
	aheadChunks  = 16
)

// aheadReader reads something before it is wanted, up to a limit. It is given what
// opens it, and begins when the one before it has begun to give something: so it
// never holds a connection for which that one still waits.
type aheadReader struct {
	cancel context.CancelFunc
	chunks chan []byte   // closed at the end, after err is set
	begun  chan struct{} // closed when there is something, or will be nothing
	err    error         // io.EOF, if all went well

	rest []byte // of the chunk that is being given out
	full []byte // that chunk, to be used again
}

// chunkPool has buffers for all of them.
var chunkPool = sync.Pool{New: func() any { return new([aheadChunk]byte) }}

// readAhead begins when after is closed. The caller closes the reader, which waits
// for what it does to end.
func readAhead(ctx context.Context, after <-chan struct{}, open func(context.Context) (io.ReadCloser, error)) *aheadReader {
	ctx, cancel := context.WithCancel(ctx)
	a := &aheadReader{cancel: cancel, chunks: make(chan []byte, aheadChunks), begun: make(chan struct{})}
	begun := sync.OnceFunc(func() { close(a.begun) })
	go func() {
		defer close(a.chunks)
		defer begun()
		a.err = func() error {
			select {
			case <-after:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			r, err := open(ctx)
			if err != nil {
				return err
			}
			defer r.Close()
			return a.fill(ctx, r, begun)
		}()
	}()
	return a
}

// fill reads up to the end, which is io.EOF if it is a good one.
func (a *aheadReader) fill(ctx context.Context, r io.Reader, begun func()) error {
	for {
		buf := chunkPool.Get().(*[aheadChunk]byte) //nolint:forcetypeassert // nothing else is put there
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
	if a.full != nil {
		chunkPool.Put((*[aheadChunk]byte)(a.full[:aheadChunk]))
		a.full = nil
	}
}

// Close ends the reading.
func (a *aheadReader) Close() error {
	a.cancel()
	for range a.chunks { // until it has ended
	}
	a.giveBack()
	return nil
}
