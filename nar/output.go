package nar

import (
	"context"
	"io"
)

// outputCount is how many buffers a dump has: one being filled, one being
// written, one waiting.
const outputCount = 3

// An output is the filling end of a pump.
type output struct {
	ctx   context.Context
	buf   []byte // being filled
	full  chan<- []byte
	empty <-chan []byte
	made  int // buffers, buf included
}

// pump runs fill in a goroutine of its own and writes what it produces to w, in
// order. It returns when both are done.
func pump(ctx context.Context, w io.Writer, fill func(*output) error) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	full, empty := make(chan []byte, outputCount), make(chan []byte, outputCount)
	out := &output{ctx: ctx, buf: newBuffer(), full: full, empty: empty, made: 1}
	var ferr error
	go func() {
		defer close(full)
		if ferr = fill(out); ferr == nil {
			full <- out.buf
		}
	}()
	defer func() { // also if w panics
		cancel()
		for range full {
		}
	}()
	for buf := range full {
		if _, err := w.Write(buf); err != nil {
			return err
		}
		empty <- buf[:0]
	}
	close(empty)
	for buf := range empty {
		freeBuffer(buf)
	}
	return ferr
}

func newBuffer() []byte { return bulkPool.Get().(*[bulkSize]byte)[:0] }

func freeBuffer(b []byte) { bulkPool.Put((*[bulkSize]byte)(b[:bulkSize])) }

// room is how many bytes fit in the buffer.
func (o *output) room() int { return cap(o.buf) - len(o.buf) }

// tail is the next n bytes of the buffer, not counted as filled yet.
func (o *output) tail(n int) []byte { return o.buf[len(o.buf) : len(o.buf)+n] }

// reserve makes room for n bytes.
func (o *output) reserve(n int) error {
	if o.room() >= n {
		return nil
	}
	return o.flush()
}

// flush passes the buffer on and begins another.
func (o *output) flush() error {
	if err := context.Cause(o.ctx); err != nil {
		return err
	}
	o.full <- o.buf
	if o.made < outputCount {
		o.buf = newBuffer()
		o.made++
		return nil
	}
	select {
	case o.buf = <-o.empty:
		return nil
	case <-o.ctx.Done():
		return context.Cause(o.ctx)
	}
}
