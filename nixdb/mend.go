package nixdb

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"zombiezen.com/go/sqlite"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Reindex makes all indices anew, those that are not there and those that are of
// something else too, and the trigger of the schema.
func (db *DB) Reindex(ctx context.Context) error {
	return db.write(ctx, "making indices anew", func(c *conn) error {
		for _, want := range indices {
			table, columns, err := c.index(want.name)
			if err != nil {
				return err
			}
			if table != "" && (table != want.table || columns != want.column) {
				if err := c.script("drop index " + want.name); err != nil {
					return err
				}
			}
			if err := c.script(want.sql); err != nil {
				return err
			}
		}
		return c.script(triggerSelfRefs, "reindex")
	})
}

// MendRow mends a row that cannot be understood, as Check has found it. A row of
// DerivationOutputs is deleted: registering the derivation again brings the right
// one. In one of ValidPaths, what cannot be understood takes the value that known has, and
// the columns that may be empty become so without it; if the hash is among the rest, known
// must not be nil. A row whose very path cannot be understood is deleted, unless something
// refers to it, which is an [InUseError].
func (db *DB) MendRow(ctx context.Context, d Damage, known *store.PathInfo) error {
	return db.write(ctx, "mending a row", func(c *conn) error {
		byID := func(s *sqlite.Stmt) { s.BindInt64(1, d.ID) }
		if d.Table == "DerivationOutputs" {
			return c.exec("delete from DerivationOutputs where rowid = ?", byID)
		}
		var changes []func() error
		gone := true
		err := c.query("select "+infoColumns+" from ValidPaths where id = ?", byID, func(s *sqlite.Stmt) error {
			gone = false
			var err error
			changes, err = db.mendings(c, s, known)
			return err
		})
		if errors.Is(err, errNoPath) {
			return db.deleteUnnamed(c, d.ID)
		}
		if err != nil || gone {
			return err
		}
		for _, change := range changes {
			if err := change(); err != nil {
				return err
			}
		}
		return nil
	})
}

var errNoPath = errors.New("its path cannot be understood")

// mendings are the statements that make a row understandable.
func (db *DB) mendings(c *conn, s *sqlite.Stmt, known *store.PathInfo) (changes []func() error, err error) {
	id := s.ColumnInt64(0)
	set := func(column string, bind func(*sqlite.Stmt)) {
		changes = append(changes, func() error {
			return c.exec("update ValidPaths set "+column+" = ? where id = ?", func(s *sqlite.Stmt) { bind(s); s.BindInt64(2, id) })
		})
	}
	text := func(t string) func(*sqlite.Stmt) { return func(s *sqlite.Stmt) { bindText(s, 1, t) } }
	p, err := db.o.Dir.Parse(s.ColumnText(1))
	if err != nil {
		return nil, errNoPath
	}
	if h, err := nixhash.Parse(s.ColumnText(2)); err != nil || h.Algorithm() != nixhash.SHA256 {
		if known == nil {
			return nil, &RowError{Table: "ValidPaths", Key: db.o.Dir.Print(p), Err: errors.New("nobody knows the hash that it should have")}
		}
		set("hash", text(known.NarHash.Text(nixhash.Base16)))
	}
	if d := s.ColumnText(4); d != "" {
		if _, err := db.o.Dir.Parse(d); err != nil {
			set("deriver", text(""))
		}
	}
	if s.ColumnInt64(5) < 0 {
		set("narSize", func(s *sqlite.Stmt) {
			if s.BindNull(1); known != nil && known.NarSize != 0 {
				s.BindInt64(1, int64(known.NarSize))
			}
		})
	}
	if _, err := parseSignatures(s.ColumnText(7)); err != nil {
		set("sigs", text(""))
	}
	if _, err := storepath.ParseContentAddress(s.ColumnText(8)); err != nil {
		set("ca", text(""))
	}
	return changes, nil
}

// deleteUnnamed deletes a row whose path nobody can read, if nothing refers to it.
func (db *DB) deleteUnnamed(c *conn, id int64) error {
	var by int64
	byID := func(s *sqlite.Stmt) { s.BindInt64(1, id) }
	if err := c.query("select referrer from Refs where reference = ? and referrer <> reference limit 1", byID,
		func(s *sqlite.Stmt) error { by = s.ColumnInt64(0); return nil }); err != nil {
		return err
	}
	if by != 0 {
		referrer, err := db.name(c, by, make(names))
		if err != nil {
			return err
		}
		return &InUseError{Path: rowKey(id)(), By: db.o.Dir.Print(referrer)}
	}
	if err := c.exec("delete from Refs where referrer = ?", byID); err != nil {
		return err
	}
	return c.exec("delete from ValidPaths where id = ?", byID)
}

// SetReferences replaces what the database says that a valid path refers to. All
// references must be valid in it.
func (db *DB) SetReferences(ctx context.Context, p storepath.Path, refs []storepath.Path) error {
	return db.write(ctx, "replacing references", func(c *conn) error {
		id, err := db.validID(c, p)
		if err != nil {
			return err
		}
		ids := make([]int64, len(refs))
		for i, r := range refs {
			if ids[i], err = db.id(c, r); err != nil {
				return err
			}
			if ids[i] == 0 {
				return &store.InvalidPathError{Path: db.o.Dir.Print(r), By: db.o.Dir.Print(p)}
			}
		}
		if err := c.exec("delete from Refs where referrer = ?", func(s *sqlite.Stmt) { s.BindInt64(1, id) }); err != nil {
			return err
		}
		slices.Sort(ids)
		for _, to := range slices.Compact(ids) {
			if err := c.exec("insert into Refs (referrer, reference) values (?, ?)", func(s *sqlite.Stmt) {
				s.BindInt64(1, id)
				s.BindInt64(2, to)
			}); err != nil {
				return err
			}
		}
		return nil
	})
}

// DropDangling deletes a row that refers to one that is not there, as Check has found
// it: a reference of something that is not there itself, an output, a realisation.
func (db *DB) DropDangling(ctx context.Context, d Damage) error {
	return db.write(ctx, "deleting a row that refers to nothing", func(c *conn) error {
		switch d.Table {
		case "Refs", "DerivationOutputs", "RealisationsRefs", "Realisations":
		default:
			return fmt.Errorf("table %.80s is not one of Nix's", d.Table)
		}
		still := false // the number may be another row's by now
		if err := c.query("pragma foreign_key_check("+d.Table+")", nil, func(s *sqlite.Stmt) error {
			still = still || s.ColumnInt64(1) == d.ID
			return nil
		}); err != nil || !still {
			return err
		}
		return c.exec("delete from "+d.Table+" where rowid = ?", func(s *sqlite.Stmt) { s.BindInt64(1, d.ID) })
	})
}
