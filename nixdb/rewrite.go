package nixdb

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"
	"zombiezen.com/go/sqlite"

	"github.com/strata-nix/strata/storepath"
)

// Rewrite is what moves a database from some lower stores to others.
type Rewrite struct {
	// Put are paths that are valid afterwards just as they stand here: a row that is
	// there gets what can change of it, and these references instead of its own.
	Put []Registration
	// Drop are paths that are not valid afterwards.
	Drop []storepath.Path
}

// Rewrite makes all changes in one transaction, or none. What is put may refer to what
// is valid and stays; what is dropped may be referred to only by what is dropped too
// ([InUseError]). To do it again changes nothing.
func (db *DB) Rewrite(ctx context.Context, r Rewrite) error {
	return db.write(ctx, "rewriting paths", func(c *conn) error {
		for i, reg := range r.Put {
			if err := interrupted(ctx, i); err != nil {
				return err
			}
			if err := c.exec("delete from Refs where referrer = (select id from ValidPaths where path = ?)",
				func(s *sqlite.Stmt) { s.BindText(1, db.o.Dir.Print(reg.Info.Path)) }); err != nil {
				return err
			}
		}
		l, err := newLoader(db, c)
		if err != nil {
			return err
		}
		if err := l.add(ctx, r.Put); err != nil {
			return err
		}
		if err := l.finish(); err != nil {
			return err
		}
		ids := make([]int64, 0, len(r.Drop))
		for i, p := range r.Drop {
			if err := interrupted(ctx, i); err != nil {
				return err
			}
			id, err := db.id(c, p)
			if err != nil {
				return err
			}
			if id != 0 {
				ids = append(ids, id)
			}
		}
		return db.deleteRows(ctx, c, ids)
	})
}

// Sync puts everything on disk that was committed. As in Nix, a transaction alone outlives
// the process, and not a power failure.
func (db *DB) Sync() error {
	// Not the files one by one: to close one of them would give up SQLite's locks on it.
	dir, err := os.Open(db.dir)
	if err == nil {
		err = errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close())
	}
	if err != nil {
		return &Error{Op: "syncing", File: db.file, Err: err}
	}
	return nil
}
