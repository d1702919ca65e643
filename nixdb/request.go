package nixdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
)

// read makes a request of one read transaction. f may be called several times,
// and then only the last time counts.
func (db *DB) read(ctx context.Context, op string, f func(*conn) error) error {
	return db.reading(ctx, op, func(c *conn) error { return c.transaction("begin", f) })
}

// reading lends f a connection. f may be called several times, and then only the
// last time counts.
func (db *DB) reading(ctx context.Context, op string, f func(*conn) error) error {
	corrupt := false
	return db.retry(ctx, op, db.patience, func() error {
		c, err := db.acquire(ctx, false)
		if err != nil {
			return err
		}
		err = f(c)
		if db.o.ReadOnly && (!c.h.same(db.file) || isReadOnly(err)) {
			err = errChanged // while it was read, so what was read is worth nothing
		}
		db.release(c, false, err)
		if isCorrupt(err) && !corrupt {
			// Perhaps a connection to what was overwritten meanwhile. Look once more.
			corrupt = true
			return errChanged
		}
		return err
	})
}

// write makes a request of one write transaction: all of it happens, or nothing
// does. f may be called several times.
func (db *DB) write(ctx context.Context, op string, f func(*conn) error) error {
	if db.o.ReadOnly {
		return &Error{Op: op, File: db.file, Err: store.ErrReadOnly}
	}
	return db.retry(ctx, op, 0, func() error {
		c, err := db.acquire(ctx, true)
		if err != nil {
			return err
		}
		err = c.transaction("begin immediate", f)
		db.release(c, true, err)
		return err
	})
}

// maxPatience is how long a request that only reads waits for others, who lock readers
// out for moments. After that something is wrong with them: they are stopped, or are
// no SQLite. Who writes may have to wait for a load of a million paths.
var maxPatience = time.Minute // for tests to change

// retry does f until it fails for another reason than that somebody else is in
// the way, or has been for longer than patience if that is not 0, and gives the error
// its name.
func (db *DB) retry(ctx context.Context, op string, patience time.Duration, f func() error) error {
	began := time.Now()
	warn := began.Add(10 * time.Second)
	changes := 0
	for pause := time.Millisecond; ; pause = min(2*pause, waitInStep) {
		err := f()
		passing := isChanged(err) || !db.o.ReadOnly && isReadOnly(err) && !isMoved(err)
		if passing {
			changes++
		}
		if again := isBusy(err) || isMoved(err) || passing && changes <= maxChanges; !again {
			return db.named(ctx, op, err)
		}
		now := time.Now()
		if patience > 0 && now.Sub(began) > patience && !passing {
			return db.named(ctx, op, failure{fmt.Errorf("%w after %s: %w", errBusy, patience, err)})
		}
		if now.After(warn) {
			activity.Warnf(ctx, "SQLite database '%s' is busy", db.file)
			warn = now.Add(10 * time.Second)
		}
		select {
		case <-ctx.Done():
			return db.named(ctx, op, failure{fmt.Errorf("%w: %w", context.Cause(ctx), err)})
		case <-time.After(pause):
		}
	}
}

// named says once where a failure of SQLite or of waiting for it was. Errors about
// paths, rows and files say it themselves, and those of a caller's input are his.
func (db *DB) named(ctx context.Context, op string, err error) error {
	var f failure
	switch {
	case err == nil:
		return nil
	case codeOf(err) == sqlite.ResultInterrupt && ctx.Err() != nil:
		err = context.Cause(ctx)
	case errors.As(err, &f), errors.Is(err, ErrClosed), errors.Is(err, errChanged), ctx.Err() != nil && errors.Is(err, context.Cause(ctx)):
	default:
		return err
	}
	return &Error{Op: op, File: db.file, Err: err}
}
