package nixdb

import (
	"context"
	"iter"
	"slices"

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
// write to the database. An error of regs ends it, and nothing is registered. It
// tells how many registrations it read.
//
// Its memory is bounded when references come before what refers to them. What was
// referred to and has not come takes some 150 bytes a path, and as long as there is
// any such path, every reference 8 bytes.
func (db *DB) Load(ctx context.Context, regs iter.Seq2[Registration, error]) (n int, err error) {
	next, stop := iter.Pull2(regs)
	defer stop()
	first, err := db.nextBatch(next, nil)
	if err != nil {
		return 0, err
	}
	if len(first) < db.batch {
		return len(first), db.Register(ctx, first)
	}
	return db.loadAll(ctx, first, next)
}

// loadAll is Load when there is more than one batch. Once it has begun it cannot
// be done again, as its input cannot be had again.
func (db *DB) loadAll(ctx context.Context, batch []Registration, next func() (Registration, error, bool)) (n int, err error) {
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
			if batch, err = db.nextBatch(next, batch); err != nil {
				return err
			}
		}
		return l.finish()
	})
	c.endBulk()
	db.release(c, true, err)
	return n, db.named(ctx, op, err)
}

// nextBatch reads registrations into the space of old.
func (db *DB) nextBatch(next func() (Registration, error, bool), old []Registration) ([]Registration, error) {
	clear(old)
	batch := slices.Grow(old[:0], 64)
	for len(batch) < db.batch {
		r, err, ok := next()
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		batch = append(batch, r)
	}
	return batch, nil
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
