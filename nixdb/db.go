package nixdb

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"time"

	"github.com/strata-nix/strata/storepath"
)

// Options say what database it is and how it is used. Dir must be set.
type Options struct {
	// Dir is the store directory, part of every path in the database.
	Dir storepath.Dir
	// ReadOnly opens without locks and without changing anything on disk. What
	// others change is seen by the next request.
	ReadOnly bool
	// NoWAL uses a rollback journal instead of a write-ahead log, and a lock file
	// instead of file locks (use-sqlite-wal = false).
	NoWAL bool
	// NoSync never waits for the disk (fsync-metadata = false).
	NoSync bool
	// Realisations makes the tables for content-addressed derivations, if they are
	// not there (experimental feature ca-derivations).
	Realisations bool
}

// maxReaders is how many requests may read at once. More than there are processors
// would only wait for each other with cold caches; one more does not wait for
// requests that take long.
var maxReaders = min(runtime.GOMAXPROCS(0)+1, 8)

// Limits.
const (
	// How long connections are kept for the next request. To open one for reading
	// only costs little, and keeps others from unmounting what it is on.
	idleAfter        = 5 * time.Second
	idleAfterReading = 200 * time.Millisecond
	// maxChanges is how often a read-only request is made again because the file
	// was changed meanwhile.
	maxChanges = 20
)

// DB is an open database. Its methods may be called by any number of goroutines.
type DB struct {
	dir, file string
	o         Options
	batch     int           // see loadBatch
	patience  time.Duration // see maxPatience

	// Who has a place in one of these may have a connection. Without a write-ahead
	// log readers lock writers out, so then all share the writer's place.
	readers, writer lane

	listing listing
	known   knownIDs

	reserving  lane // guards reserveDue and the file "reserved"
	reserveDue bool // see reserveLater

	mu     lane // guards what follows
	cur    *handle
	closed bool
	uses   uint64 // counts requests
	timer  *time.Timer
}

// Open opens the database in dbDir, <state>/db. Unless it is for reading only, it
// makes what is not there, and brings a database of an old schema up to date.
func Open(ctx context.Context, dbDir string, o Options) (*DB, error) {
	dir, err := filepath.Abs(dbDir)
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	db := &DB{
		dir: dir, file: filepath.Join(dir, "db.sqlite"), o: o, batch: loadBatch, patience: maxPatience,
		readers: make(lane, maxReaders), writer: make(lane, 1), mu: make(lane, 1),
		reserving: make(lane, 1),
		listing:   listing{turn: make(lane, 1)},
	}
	if o.NoWAL {
		db.readers = db.writer
		db.patience = 0 // readers wait for writers
	}
	opening := time.Duration(0)
	if o.ReadOnly {
		db.patience, opening = maxPatience, maxPatience
	}
	if err := db.retry(ctx, "opening", opening, func() error {
		if err := db.mu.enter(ctx); err != nil {
			return err
		}
		defer db.mu.leave()
		_, err := db.current(ctx)
		if err == nil {
			db.watchIdle()
		}
		return err
	}); err != nil {
		return nil, err
	}
	return db, nil
}

// Close gives everything back. No request may be under way.
func (db *DB) Close() error {
	db.reserveNow()
	db.mu.enterAnyway()
	db.closed = true
	if db.timer != nil {
		db.timer.Stop()
	}
	var err error
	if h := db.cur; h != nil {
		db.cur = nil
		if h.same(db.file) {
			err = closeAll(h.idle())
		} else {
			abandon(h.idle())
		}
		h.dead = true
		h.end()
	}
	db.mu.leave()
	if err != nil {
		return &Error{Op: "closing", File: db.file, Err: err}
	}
	return nil
}

// Release closes the connections that are not in use; the next request opens
// them again. When they are the last ones to the database, everything in its
// write-ahead log is written back, so that others can read it without the log.
// It happens by itself some seconds after the last request.
func (db *DB) Release() error {
	db.known.forget()
	db.mu.enterAnyway()
	var idle []*conn
	if h := db.cur; h != nil {
		idle = h.idle()
		if !h.same(db.file) {
			abandon(idle)
			idle = nil
		}
	}
	db.mu.leave()
	if err := closeAll(idle); err != nil {
		return &Error{Op: "closing connections", File: db.file, Err: err}
	}
	return nil
}

func closeAll(list []*conn) error {
	var errs []error
	for _, c := range list {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// abandon closes connections to a file that is gone, or is something else now.
func abandon(list []*conn) {
	for _, c := range list {
		forsakeLog(c.Conn)
		_ = c.Close() // has nothing to lose
	}
}

// current gives the handle of the file that is there now. db.mu is held.
func (db *DB) current(ctx context.Context) (*handle, error) {
	if db.closed {
		return nil, ErrClosed
	}
	if db.cur != nil && db.cur.fresh(db.file) {
		return db.cur, nil
	}
	again := db.cur != nil
	if again && db.cur.out > 0 && db.cur.overwritten(db.file) {
		abandon(db.cur.idle())
		return nil, errChanged // until the others have given their connections back
	}
	db.retire()
	h, err := db.openHandle(ctx)
	if err != nil {
		if s, lerr := look(db.file); again && lerr == nil && s.missing() && !errors.Is(err, ErrGone) {
			err = fmt.Errorf("%w: %w", ErrGone, err)
		}
		return nil, err
	}
	db.cur = h
	return h, nil
}

func (db *DB) openHandle(ctx context.Context) (*handle, error) {
	if db.o.ReadOnly {
		return db.openReadOnly()
	}
	return db.openReadWrite(ctx)
}

// retire lets go of the handle whose file is gone or changed. The space of a
// deleted file goes back to the disk with its last connection. db.mu is held.
func (db *DB) retire() {
	h := db.cur
	if h == nil {
		return
	}
	db.cur = nil
	h.dead = true
	abandon(h.idle())
	h.end()
}

// acquire gives a connection; release takes it back.
func (db *DB) acquire(ctx context.Context, write bool) (*conn, error) {
	if err := db.lane(write).enter(ctx); err != nil {
		return nil, err
	}
	c, err := db.connect(ctx, write)
	if err != nil {
		db.lane(write).leave()
	} else if write {
		db.reserveNow()
	}
	return c, err
}

func (db *DB) lane(write bool) lane {
	if write {
		return db.writer
	}
	return db.readers
}

func (db *DB) connect(ctx context.Context, write bool) (*conn, error) {
	h, err := db.stillCurrent(ctx)
	if err != nil {
		return nil, err
	}
	if err := db.mu.enter(ctx); err != nil {
		return nil, err
	}
	defer db.mu.leave()
	for i := range 4 {
		if i > 0 || h == nil || h != db.cur || h.spoiled {
			if h, err = db.current(ctx); err != nil {
				return nil, err
			}
		}
		c := h.take(write)
		if c == nil {
			if c, err = db.dial(h, write); err != nil {
				return nil, err
			}
			if !h.same(db.file) { // it may be a connection to something else
				_ = c.Close()
				h.spoiled = true
				continue
			}
		}
		h.out++
		db.uses++
		db.watchIdle()
		return c, nil
	}
	return nil, errChanged
}

// stillCurrent gives the handle that current would give if nothing has changed,
// nil if something has. It looks while nobody has to wait for it.
func (db *DB) stillCurrent(ctx context.Context) (*handle, error) {
	if err := db.mu.enter(ctx); err != nil {
		return nil, err
	}
	h := db.cur
	db.mu.leave()
	if h == nil || !h.unchanged(db.file) {
		return nil, nil //nolint:nilnil // current says why
	}
	return h, nil
}

// dial opens one more connection to a handle's file.
func (db *DB) dial(h *handle, write bool) (*conn, error) {
	c, err := dial(db.file, h.access, &db.o, false)
	if err != nil {
		if h.access == withLog && !isBusy(err) {
			return nil, &LogError{File: db.logFile(h.state), Err: err, passing: isReadOnly(err)}
		}
		return nil, err
	}
	c.h = h
	if h.access == readWrite && !write {
		if err := c.script("pragma query_only = 1"); err != nil {
			_ = c.Close()
			return nil, err
		}
	}
	return c, nil
}

// release takes a connection back, and leaves the lane. err is what the request
// came to.
func (db *DB) release(c *conn, write bool, err error) {
	db.mu.enterAnyway()
	h := c.h
	if isCorrupt(err) || isReadOnly(err) && h.access == readWrite {
		h.spoiled = true
	}
	surplus := h.put(c, write)
	forsaken := h.dead || h.spoiled
	db.mu.leave()
	if surplus {
		if forsaken {
			forsakeLog(c.Conn)
		}
		_ = c.Close() // what it wrote is committed, what it read is copied
		db.mu.enterAnyway()
		h.out--
		h.end()
		db.mu.leave()
	}
	db.lane(write).leave()
}

// watchIdle sees to it that connections which nobody uses are given back. db.mu
// is held.
func (db *DB) watchIdle() {
	if db.timer != nil {
		return
	}
	seen, idle := db.uses, idleAfter
	if db.o.ReadOnly {
		idle = idleAfterReading
	}
	db.timer = time.AfterFunc(idle, func() {
		db.mu.enterAnyway()
		db.timer = nil
		quiet := seen == db.uses
		if !quiet && !db.closed {
			db.watchIdle()
		}
		db.mu.leave()
		if quiet {
			_ = db.Release() // the next request will meet what is wrong
		}
	})
}
