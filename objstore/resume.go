package objstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

// Resume is a storage whose readers go on where they break off, if the object is
// still the same: it must have an ETag. They give up after so many failures in
// a row.
func Resume(s Store, attempts int) Store { return &resuming{Store: s, attempts: attempts} }

type resuming struct {
	Store
	attempts int
}

// Unwrap gives the storage below.
func (r *resuming) Unwrap() Store { return r.Store }

func (r *resuming) Get(ctx context.Context, name string, o GetOptions) (io.ReadCloser, Info, error) {
	body, info, err := r.Store.Get(ctx, name, o)
	if err != nil || info.ETag == "" {
		return body, info, err
	}
	o.ETag = info.ETag
	return &resumedBody{ctx: ctx, s: r.Store, name: name, o: o, body: body, attempts: r.attempts}, info, nil
}

// resumedBody is the rest of an object.
type resumedBody struct {
	ctx  context.Context //nolint:containedctx // of the one request that this is
	s    Store
	name string
	o    GetOptions // where body began; the length counts down

	body     io.ReadCloser // nil: broken
	attempts int
	failures int // since something came
	done     error
}

func (b *resumedBody) Read(p []byte) (int, error) {
	for b.done == nil {
		if b.body == nil {
			b.reopen()
			continue
		}
		n, err := b.body.Read(p)
		if n > 0 {
			b.advance(n)
			b.failures = 0
			return n, b.judge(err)
		}
		if err = b.judge(err); err != nil {
			return 0, err
		}
		if b.body != nil {
			return 0, nil
		}
	}
	return 0, b.done
}

// advance notes that bytes came.
func (b *resumedBody) advance(n int) {
	b.o.Offset += int64(n)
	if b.o.Length > 0 {
		if b.o.Length -= int64(n); b.o.Length == 0 {
			b.done = io.EOF
		}
	}
}

// judge says whether an error is the end. If not it drops the body.
func (b *resumedBody) judge(err error) error {
	if err == nil || errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		if err != nil {
			b.done = err
		}
		return err
	}
	_ = b.body.Close() // it is broken anyway
	b.body = nil
	b.fail(err)
	return b.done
}

// fail notes a failure, and whether it was the last.
func (b *resumedBody) fail(err error) {
	b.failures++
	switch {
	case b.ctx.Err() != nil:
		b.done = context.Cause(b.ctx)
	case b.failures >= b.attempts:
		b.done = fmt.Errorf("reading '%s' at byte %d: %w", b.name, b.o.Offset, err)
	}
}

// firstWait is how long the first failure makes one wait; each further one doubles
// it.
const firstWait = 250 * time.Millisecond

// reopen goes on where the body broke off.
func (b *resumedBody) reopen() {
	wait := firstWait << min(b.failures-1, 6)
	select {
	case <-time.After(wait/2 + rand.N(wait)):
	case <-b.ctx.Done():
		b.done = context.Cause(b.ctx)
		return
	}
	body, _, err := b.s.Get(b.ctx, b.name, b.o)
	switch {
	case err == nil:
		b.body = body
	case errors.Is(err, ErrChanged), errors.Is(err, ErrNotExist):
		b.done = fmt.Errorf("reading '%s' at byte %d: %w", b.name, b.o.Offset, err)
	default:
		b.fail(err)
	}
}

func (b *resumedBody) Close() error {
	b.done = errClosed
	if b.body == nil {
		return nil
	}
	return b.body.Close()
}

var errClosed = errors.New("already closed")
