package nixdb

import (
	"context"
	"fmt"

	"zombiezen.com/go/sqlite"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Update changes what may change of valid paths: size, hash, signatures, content
// address and the mark of trust. All of it happens or nothing.
func (db *DB) Update(ctx context.Context, infos []*store.PathInfo) error {
	return db.write(ctx, "updating path infos", func(c *conn) error {
		for _, info := range infos {
			if err := db.update(c, info); err != nil {
				return err
			}
			if c.Changes() == 0 {
				return &store.InvalidPathError{Path: db.o.Dir.Print(info.Path)}
			}
		}
		return nil
	})
}

// checkHash refuses an info whose hash Nix could not read back.
func (db *DB) checkHash(info *store.PathInfo) error {
	if info.NarHash.Algorithm() != nixhash.SHA256 {
		return fmt.Errorf("cannot register path '%s' without the SHA-256 hash of its NAR", db.o.Dir.Print(info.Path))
	}
	return nil
}

// checkAddress refuses an info whose path does not follow from its content address.
func (db *DB) checkAddress(info *store.PathInfo) error {
	if !info.CA.IsZero() && !info.IsContentAddressed(db.o.Dir) {
		return &ContentAddressError{Path: db.o.Dir.Print(info.Path)}
	}
	return nil
}

func (db *DB) update(c *conn, info *store.PathInfo) error {
	if err := db.checkHash(info); err != nil {
		return err
	}
	return c.exec("update ValidPaths set hash = ?, narSize = ?, ultimate = ?, sigs = ?, ca = ? where path = ?", func(s *sqlite.Stmt) {
		s.BindText(1, info.NarHash.Text(nixhash.Base16))
		bindMutable(s, 2, info)
		s.BindText(6, db.o.Dir.Print(info.Path))
	})
}

// AddSignatures adds signatures to a valid path.
func (db *DB) AddSignatures(ctx context.Context, p storepath.Path, sigs []store.Signature) error {
	path := db.o.Dir.Print(p)
	return db.write(ctx, "adding signatures", func(c *conn) error {
		valid, have := false, ""
		if err := c.query("select sigs from ValidPaths where path = ?", func(s *sqlite.Stmt) { s.BindText(1, path) },
			func(s *sqlite.Stmt) error { valid, have = true, s.ColumnText(0); return nil }); err != nil {
			return err
		}
		if !valid {
			return &store.InvalidPathError{Path: path}
		}
		all, err := parseSignatures(have)
		if err != nil {
			return &RowError{Table: "ValidPaths", Key: path, Err: err}
		}
		return c.exec("update ValidPaths set sigs = ? where path = ?", func(s *sqlite.Stmt) {
			bindText(s, 1, printSignatures(sortSignatures(append(all, sigs...))))
			s.BindText(2, path)
		})
	})
}

// Invalidate makes paths invalid in one transaction, which is on disk when it
// returns: their objects may be deleted then. When anything outside of paths refers to
// one of them, nothing happens and an [InUseError] names both. What is not valid is
// passed over.
func (db *DB) Invalidate(ctx context.Context, paths []storepath.Path) error {
	err := db.write(ctx, "invalidating paths", func(c *conn) error {
		ids := make([]int64, 0, len(paths))
		for i, p := range paths {
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
	if err != nil {
		return err
	}
	return db.syncLog()
}

// deleteRows deletes paths. Their references go first, so that their order does
// not matter, and whatever refers to them after that is an outsider, for whom the
// database itself looks.
func (db *DB) deleteRows(ctx context.Context, c *conn, ids []int64) error {
	byID := func(id int64) func(*sqlite.Stmt) { return func(s *sqlite.Stmt) { s.BindInt64(1, id) } }
	for i, id := range ids {
		if err := interrupted(ctx, i); err != nil {
			return err
		}
		if err := c.exec("delete from Refs where referrer = ?", byID(id)); err != nil {
			return err
		}
	}
	for i, id := range ids {
		if err := interrupted(ctx, i); err != nil {
			return err
		}
		err := c.exec("delete from ValidPaths where id = ?", byID(id))
		if codeOf(err) != sqlite.ResultConstraint {
			if err != nil {
				return err
			}
			continue
		}
		var by int64
		if err := c.query("select referrer from Refs where reference = ? limit 1", byID(id),
			func(s *sqlite.Stmt) error { by = s.ColumnInt64(0); return nil }); err != nil {
			return err
		}
		if by == 0 {
			return err
		}
		return db.inUse(c, id, by)
	}
	return nil
}

func (db *DB) inUse(c *conn, id, by int64) error {
	names := make(names)
	p, err := db.name(c, id, names)
	if err != nil {
		return err
	}
	referrer, err := db.name(c, by, names)
	if err != nil {
		return err
	}
	return &InUseError{Path: db.o.Dir.Print(p), By: db.o.Dir.Print(referrer)}
}
