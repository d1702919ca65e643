package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// fetch begins to lock, fetch, unpack and verify an object.
func (im *importer) fetch(ctx context.Context, o *object) {
	o.state = fetching
	tmp, name := im.tmp, fmt.Sprintf("%d-%d", o.index, len(o.errs))
	o.path = tmp.scratch.At(name)
	own, cancel := context.WithCancel(ctx)
	o.cancel = cancel
	im.running++
	offer, locked := o.offers[0], o.lock != nil
	if !locked {
		im.held++
	}
	go func() {
		if !locked {
			lock, outcome, err := im.s.lockNew(own, o.imp.Path, im.opts.Repair)
			im.events <- func() { im.lockAsked(ctx, o, lock, outcome, err) }
			if outcome != lockTaken {
				return
			}
		}
		err := im.s.makeRoom(own)
		if err == nil {
			err = im.s.take(own, &offer, tmp, name)
		}
		im.events <- func() { im.fetched(ctx, o, err) }
	}()
}

// lockOutcome is what became of an attempt to lock an object.
type lockOutcome uint8

const (
	lockFailed   lockOutcome = iota
	lockTaken                // and the object is not valid
	lockBusy                 // somebody else has it
	lockNeedless             // the object is valid
)

// lockNew locks an object that is not valid, without waiting.
func (s *Store) lockNew(ctx context.Context, p storepath.Path, repair bool) (*flock.Lock, lockOutcome, error) {
	l, err := s.tryLockPath(p)
	if err != nil {
		return nil, lockFailed, err
	}
	if l == nil {
		return nil, lockBusy, nil
	}
	if !repair {
		valid, err := s.db.ValidPaths(ctx, []storepath.Path{p})
		if err != nil || len(valid) > 0 {
			unlock(l)
			return nil, lockNeedless, err
		}
	}
	return l, lockTaken, nil
}

// lockAsked goes on when the lock of an object has been asked for.
func (im *importer) lockAsked(ctx context.Context, o *object, lock *flock.Lock, outcome lockOutcome, err error) {
	if outcome == lockTaken {
		o.lock = lock
		if o.state == fetching {
			im.pause = 0
			im.cover(o)
		}
		return
	}
	im.running--
	im.held--
	o.cancel()
	switch {
	case im.stopped(o):
	case err != nil:
		im.stop(err)
	case outcome == lockNeedless:
		im.pause = 0
		im.arrived(o, nil)
	default:
		im.tellWaiting(ctx)
		o.state = elsewhere
		im.elsewhere = append(im.elsewhere, o)
	}
}

// fetched goes on when an object is complete, or has failed.
func (im *importer) fetched(ctx context.Context, o *object, err error) {
	im.running--
	o.cancel()
	switch {
	case im.stopped(o):
	case err == nil:
		o.state = complete
		if o.needs == 0 {
			im.makeReady(o)
		}
	case isFatal(err):
		im.stop(err)
	default:
		o.state = undecided
		im.offerFailed(ctx, o, err)
	}
}

// stopped tells that what a goroutine did is of no use any more.
func (im *importer) stopped(o *object) bool {
	if o.state != fetching {
		im.unlock(o)
		return true
	}
	return im.fatal != nil
}

// unlock gives the lock of an object back, if we have it.
func (im *importer) unlock(o *object) {
	if o.lock != nil {
		unlock(o.lock)
		o.lock = nil
		im.held--
	}
}

// isFatal tells whether an error of one object will be one of every other too.
func isFatal(err error) bool {
	if errors.As(err, new(*sourceError)) {
		return false
	}
	for _, errno := range []unix.Errno{unix.ENOSPC, unix.EDQUOT, unix.EROFS, unix.EIO, unix.EMFILE, unix.ENFILE, unix.ENOMEM} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// sourceError is what a source failed with, whatever it looks like.
type sourceError struct{ error }

func (e *sourceError) Unwrap() error { return e.error }

// sourceReader remembers that it was the source that failed.
type sourceReader struct{ io.Reader }

func (r sourceReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &sourceError{err}
	}
	return n, err
}

// take unpacks what an offer gives, and verifies it. Nothing stays after an error.
func (s *Store) take(ctx context.Context, offer *store.Offer, tmp *tempDir, name string) error {
	opening, wrong := store.VerifyingAloud(ctx)
	stream, err := offer.Open(opening)
	if err != nil {
		return &sourceError{err}
	}
	r := sourceReader{stream}
	err = s.unpack(ctx, offer.Info, r, tmp, name)
	if err == nil {
		err = s.ends(offer, r)
	}
	if errors.Is(err, store.ErrMismatch) {
		wrong()
		err = fmt.Errorf("from '%s': %w", offer.From, err)
	}
	if err != nil {
		_, _ = removeTree(context.WithoutCancel(ctx), tmp.scratch.At(name)) // the directory that it is in goes away later
	}
	return errors.Join(err, stream.Close())
}

// ends sees to it that a source had no more than was promised, and no complaint.
func (s *Store) ends(offer *store.Offer, r io.Reader) error {
	var more [1]byte
	n, err := io.ReadFull(r, more[:])
	if n > 0 {
		return fmt.Errorf("importing path '%s': there is more after the NAR: %w", s.dir.Print(offer.Info.Path), store.ErrMismatch)
	}
	if !errors.Is(err, io.EOF) {
		return fmt.Errorf("importing path '%s': %w", s.dir.Print(offer.Info.Path), err)
	}
	return nil
}

// buffers are what NARs are read through.
var buffers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, readSize) }}

// unpack makes a tree of a NAR, named so in a temporary directory, and fails if it is not
// the promised one. It may then have left a part of it.
func (s *Store) unpack(ctx context.Context, info *store.PathInfo, narStream io.Reader, tmp *tempDir, name string) error {
	what := fmt.Sprintf("importing path '%s'", s.dir.Print(info.Path))
	// The size bounds what is read, so that a buffer cannot swallow what follows.
	limited := &io.LimitedReader{R: narStream, N: int64(info.NarSize)} //nolint:gosec // compared below
	h := nixhash.SHA256.New()
	buffer := buffers.Get().(*bufio.Reader) //nolint:forcetypeassert // nothing else is put there
	defer buffers.Put(buffer)
	defer buffer.Reset(nil)
	buffer.Reset(io.TeeReader(limited, h))
	stats, err := tmp.scratch.Restore(ctx, buffer, name)
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) && limited.N == 0 {
			return fmt.Errorf("%s: the NAR is longer than %d bytes or cut short: %w", what, info.NarSize, errors.Join(store.ErrMismatch, err))
		}
		return fmt.Errorf("%s: %w", what, err)
	}
	if got := uint64(stats.NarSize); got != info.NarSize { //nolint:gosec // a count of bytes
		return &store.SizeMismatchError{What: what, Want: info.NarSize, Got: got}
	}
	if got := nixhash.Sum(nixhash.SHA256, h); got != info.NarHash {
		return &store.HashMismatchError{What: what, Want: info.NarHash, Got: got}
	}
	return s.checkContentAddress(ctx, info, tmp.scratch.At(name))
}
