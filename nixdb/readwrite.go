package nixdb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/flock"
)

// reservedSize is Nix's gc-reserved-space.
const reservedSize = 8 << 20

// openReadWrite makes the directory and the database if they are not there, and
// brings an old database up to date.
func (db *DB) openReadWrite(ctx context.Context) (*handle, error) {
	if err := os.MkdirAll(db.dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the database directory: %w", err)
	}
	if err := unix.Access(db.dir, unix.R_OK|unix.W_OK|unix.X_OK); err != nil {
		return nil, &os.PathError{Op: "Nix database directory is not writable: access", Path: db.dir, Err: err}
	}
	lock, err := flock.Open(filepath.Join(db.dir, "big-lock"))
	if err != nil {
		return nil, err
	}
	h := &handle{access: readWrite, lock: lock}
	if err := db.openLocked(ctx, h); err != nil {
		_ = closeAll(h.idle())
		_ = lock.Close()
		return nil, err
	}
	db.reserveLater()
	return h, nil
}

// openLocked is openReadWrite under the big lock: shared against migrations, or
// exclusive to migrate.
func (db *DB) openLocked(ctx context.Context, h *handle) error {
	if err := h.lock.Lock(ctx, flock.Shared, func() {
		activity.Logf(ctx, activity.Info, "waiting for the big Nix store lock...")
	}); err != nil {
		return err
	}
	version, err := readSchema(db.dir)
	if err != nil {
		return err
	}
	if err := checkSchemaNotNewer(db.dir, version); err != nil {
		return err
	}
	if version != 0 && version < SchemaVersion {
		if err := db.migrateOld(ctx, h.lock, version); err != nil {
			return err
		}
	}
	c, err := dial(db.file, readWrite, &db.o, version == 0)
	if err != nil {
		return db.missing(err)
	}
	c.h = h
	h.writers = append(h.writers, c)
	if version == 0 {
		if err := c.transaction("begin immediate", func(c *conn) error { return c.script(schemaSQL...) }); err != nil {
			return err
		}
		if err := writeSchema(db.dir, !db.o.NoSync); err != nil {
			return err
		}
	}
	if err := c.migrate(db.o.Realisations); err != nil {
		return err
	}
	h.at = time.Now()
	h.state, err = lookClosely(db.file)
	if err == nil && h.state.missing() {
		err = errChanged
	}
	return err
}

// missing says more about a database that cannot be opened since it is not there,
// although there is a schema file.
func (db *DB) missing(err error) error {
	if s, lerr := look(db.file); lerr == nil && s.missing() {
		return &Error{Op: "opening", File: db.file, Err: fmt.Errorf("%w: there is no such file, though '%s' says there was: %w",
			ErrGone, filepath.Join(db.dir, "schema"), os.ErrNotExist)}
	}
	return err
}

// migrate adds what newer versions of Nix add without a new schema number.
func (c *conn) migrate(withRealisations bool) error {
	done := map[string]bool{}
	if err := c.script("create table if not exists SchemaMigrations (migration text primary key not null)"); err != nil {
		return err
	}
	s, _, err := c.PrepareTransient("select migration from SchemaMigrations")
	if err != nil {
		return failure{err}
	}
	err = each(s, func() error { done[s.ColumnText(0)] = true; return nil })
	_ = s.Finalize() // would say again what each said
	if err != nil || !withRealisations || done[realisations.name] {
		return err
	}
	return c.transaction("begin immediate", func(c *conn) error {
		if err := c.script(realisations.sql...); err != nil {
			return err
		}
		return c.script("insert or ignore into SchemaMigrations values ('" + realisations.name + "')")
	})
}

// migrateOld brings a database of schema 6 to 9 to 10, in one transaction and
// with nobody else at work. It ends with a shared lock as it began.
func (db *DB) migrateOld(ctx context.Context, lock *flock.Lock, version int) error {
	if err := checkSchemaNotTooOld(db.dir, version); err != nil {
		return err
	}
	ok, err := lock.Try(flock.Exclusive)
	if err == nil && !ok {
		// Two that hold it shared and wait for each other would wait forever.
		if err = lock.Unlock(); err == nil {
			err = lock.Lock(ctx, flock.Exclusive, func() {
				activity.Logf(ctx, activity.Info, "waiting for exclusive access to the Nix store...")
			})
		}
	}
	if err != nil {
		return err
	}
	// Somebody else may have done it meanwhile.
	if version, err = readSchema(db.dir); err != nil {
		return err
	}
	if err := checkSchemaNotNewer(db.dir, version); err != nil {
		return err
	}
	if version != SchemaVersion {
		if err := db.upgradeTables(); err != nil {
			return err
		}
		if err := writeSchema(db.dir, !db.o.NoSync); err != nil {
			return err
		}
	}
	return lock.Lock(ctx, flock.Shared, nil)
}

// upgradeTables does what is missing of the changes of versions 8, 9 and 10, so
// that it can be repeated after a crash.
func (db *DB) upgradeTables() error {
	c, err := dial(db.file, readWrite, &db.o, false)
	if err != nil {
		return db.missing(err)
	}
	err = c.transaction("begin immediate", func(c *conn) error {
		have, err := c.columns("ValidPaths")
		if err != nil {
			return err
		}
		for _, col := range []string{"ultimate integer", "sigs text", "ca text"} {
			if !have[col] {
				if err := c.script("alter table ValidPaths add column " + col); err != nil {
					return err
				}
			}
		}
		if err := c.script("drop table if exists FailedPaths"); err != nil {
			return err
		}
		return c.script(schemaSQL...) // indices and the trigger, if they are not there
	})
	if cerr := c.Close(); err == nil && cerr != nil {
		err = failure{cerr}
	}
	return err
}

// columns gives the columns of a table as "name type".
func (c *conn) columns(table string) (map[string]bool, error) {
	s, _, err := c.PrepareTransient("select name || ' ' || lower(type) from pragma_table_info('" + table + "')")
	if err != nil {
		return nil, failure{err}
	}
	have := map[string]bool{}
	err = each(s, func() error { have[s.ColumnText(0)] = true; return nil })
	_ = s.Finalize() // would say again what each said
	return have, err
}

// reserve keeps some bytes that a collection can give back when the disk is full,
// as SQLite cannot even delete rows then. It is no matter if it fails; then no more is
// kept than was, as what is left is needed more.
func reserve(name string) {
	had := int64(0)
	if st, err := os.Stat(name); err == nil {
		had = st.Size()
	}
	if had == reservedSize {
		return
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }()
	err = unix.Fallocate(int(f.Fd()), 0, 0, reservedSize)
	if errors.Is(err, unix.EOPNOTSUPP) {
		_, err = f.Write(make([]byte, reservedSize))
	}
	if err != nil {
		_ = f.Truncate(min(had, reservedSize))
	}
}

// reserveAfter is when a database that was opened has its reserve although nobody has
// written to it.
const reserveAfter = time.Second

// reserveLater is Reserve for a database that has just been opened. In memory it takes
// longer than the opening, and who only reads has no need of it: it is made before the
// first write, after a while, or when the database is closed.
func (db *DB) reserveLater() {
	db.reserving.enterAnyway()
	defer db.reserving.leave()
	db.reserveDue = true
	time.AfterFunc(reserveAfter, db.reserveNow)
}

// reserveNow makes the reserve that was put off.
func (db *DB) reserveNow() {
	db.reserving.enterAnyway()
	defer db.reserving.leave()
	if db.reserveDue {
		db.reserveDue = false
		reserve(reserved(db.dir))
	}
}

// SpendReserve gives the bytes to the disk that are kept for the case that it is
// full: for whoever is about to make room. Reserve takes them again.
func (db *DB) SpendReserve() {
	db.reserving.enterAnyway()
	defer db.reserving.leave()
	db.reserveDue = false
	_ = os.Remove(reserved(db.dir))
}

// Reserve keeps some bytes for SpendReserve, as opening the database does.
func (db *DB) Reserve() {
	db.reserving.enterAnyway()
	defer db.reserving.leave()
	reserve(reserved(db.dir))
}

// SpendSome gives some of the bytes to the disk that are kept, for a small file that has to be
// written. The database in dir need not be open.
func SpendSome(dir string, bytes int64) {
	if st, err := os.Stat(reserved(dir)); err == nil {
		_ = os.Truncate(reserved(dir), max(0, st.Size()-bytes))
	}
}

func reserved(dir string) string { return filepath.Join(dir, "reserved") }
