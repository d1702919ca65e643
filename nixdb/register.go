package nixdb

import (
	"context"
	"errors"
	"iter"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Registration is what makes a path valid.
type Registration struct {
	Info *store.PathInfo
	// Outputs of a derivation by name, as far as they are known before it is built.
	Outputs map[string]storepath.Path
}

// Register makes paths valid in one transaction, in any order, or none of them.
// References must be valid or registered with them, and no cycle may be among
// them ([store.InvalidPathError], [CycleError]). For a path that is valid already
// it changes size, hash, signatures, content address and the mark of trust, and
// adds references. A registration time of 0 is now.
func (db *DB) Register(ctx context.Context, regs []Registration) error {
	return db.write(ctx, "registering paths", func(c *conn) error {
		l, err := newLoader(db, c)
		if err != nil {
			return err
		}
		if err := l.add(ctx, regs); err != nil {
			return err
		}
		return l.finish()
	})
}

// loadBatch is how many registrations are sorted and written together. In memory
// it is about a kilobyte for each.
const loadBatch = 8192

// Load is Register for any number of paths. It reads the first batch of its input
// before it shuts other writers out, and the rest while it does; regs must not
// write to the database, and is read in a goroutine of its own. An error of regs ends
// it, and nothing is registered. It tells how many registrations it read.
//
// An empty database that nobody else has open is filled past SQL, and put in place in one
// transaction in the end; until then nobody else can open it. That takes some 100 bytes of memory
// a path. Otherwise memory is bounded when references come before what refers to them. What was
// referred to and has not come takes some 150 bytes a path, and as long as there is
// any such path, every reference 8 bytes.
func (db *DB) Load(ctx context.Context, regs iter.Seq2[Registration, error]) (n int, err error) {
	f := newFeed(regs, min(db.batch, feedChunk))
	defer f.stop()
	first, err := f.batch(db.batch, nil)
	if err != nil {
		return 0, err
	}
	if len(first) < db.batch {
		return len(first), db.Register(ctx, first)
	}
	if n, err = db.loadImage(ctx, first, f); errors.Is(err, errNoImage) {
		n, err = db.loadRows(ctx, first, f)
	}
	return n, err
}

// loadImage is Load into an empty database. The error is errNoImage if it is not, and nothing was read then.
func (db *DB) loadImage(ctx context.Context, batch []Registration, f *feed) (n int, err error) {
	const op = "loading paths"
	if db.o.ReadOnly {
		return 0, errNoImage // which loadRows tells
	}
	var c *conn
	var b *bulkLoad
	err = db.retry(ctx, op, 0, func() error {
		if c, err = db.acquire(ctx, true); err != nil {
			return err
		}
		if b, err = db.beginImage(c); err != nil {
			err = errors.Join(err, c.endImage(ctx, nil))
			db.release(c, true, err)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	for len(batch) > 0 && err == nil {
		n += len(batch)
		if err = b.add(ctx, batch); err == nil {
			batch, err = f.batch(1, batch)
		}
	}
	if err == nil {
		err = b.finish(ctx, c)
	}
	err = errors.Join(err, c.endImage(ctx, b))
	db.release(c, true, err)
	return n, db.named(ctx, op, err)
}

// loadRows is Load by SQL when there is more than one batch. Once it has begun it cannot
// be done again, as its input cannot be had again.
func (db *DB) loadRows(ctx context.Context, batch []Registration, f *feed) (n int, err error) {
	const op = "loading paths"
	c, err := db.beginBulk(ctx, op)
	if err != nil {
		return 0, err
	}
	err = c.settle(func(c *conn) error {
		defer c.interruptible(ctx)()
		l, err := newLoader(db, c)
		if err != nil {
			return err
		}
		if err := l.beginStream(); err != nil {
			return err
		}
		for len(batch) > 0 {
			n += len(batch)
			if err := l.add(ctx, batch); err != nil {
				return err
			}
			if batch, err = f.batch(db.batch, batch); err != nil {
				return err
			}
		}
		return l.finish()
	})
	c.endBulk()
	db.release(c, true, err)
	return n, db.named(ctx, op, err)
}

// beginBulk begins a write transaction with a big cache, with the memory of indices
// that are made bounded by it too, and without SQLite's check of foreign keys, which the loader makes up for: it would look up each
// reference twice more.
func (db *DB) beginBulk(ctx context.Context, op string) (c *conn, err error) {
	if db.o.ReadOnly {
		return nil, &Error{Op: op, File: db.file, Err: store.ErrReadOnly}
	}
	err = db.retry(ctx, op, 0, func() error {
		if c, err = db.acquire(ctx, true); err != nil {
			return err
		}
		// Neither setting can be changed within a transaction.
		err = c.script("pragma foreign_keys = 0", "pragma cache_size = "+cacheSizeLoad, "pragma temp_store = file", "begin immediate")
		if err != nil {
			c.endBulk()
			db.release(c, true, err)
		}
		return err
	})
	return c, err
}

// endBulk makes the settings that a connection has otherwise.
func (c *conn) endBulk() {
	if err := c.script("pragma foreign_keys = 1", "pragma cache_size = "+cacheSize, "pragma shrink_memory"); err != nil {
		c.broken = true
	}
}
