package nixdb

import (
	"context"
	"strings"

	"zombiezen.com/go/sqlite"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// checkEvery is after how many steps of a loop the context is looked at.
const checkEvery = 256

// interrupted gives the context's error now and then, i counting the steps.
func interrupted(ctx context.Context, i int) error {
	if i%checkEvery == checkEvery-1 && ctx.Err() != nil {
		return failure{context.Cause(ctx)}
	}
	return nil
}

const selectID = "select id from ValidPaths where path = ?"

// id gives the number of a valid path, 0 if it is not valid.
func (db *DB) id(c *conn, p storepath.Path) (id int64, err error) {
	err = c.query(selectID, func(s *sqlite.Stmt) { s.BindText(1, db.o.Dir.Print(p)) },
		func(s *sqlite.Stmt) error { id = s.ColumnInt64(0); return nil })
	return id, err
}

// validID is id for a path that must be valid.
func (db *DB) validID(c *conn, p storepath.Path) (int64, error) {
	id, err := db.id(c, p)
	if err == nil && id == 0 {
		err = &store.InvalidPathError{Path: db.o.Dir.Print(p)}
	}
	return id, err
}

// ValidPaths gives those of paths that are valid, in the order asked.
func (db *DB) ValidPaths(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error) {
	var ids []int64
	err := db.ask(ctx, "asking for validity",
		func(_ *conn, v *view) (err error) {
			ids, err = db.seenIDs(ctx, v, paths)
			return err
		},
		func(c *conn) (err error) {
			ids = make([]int64, len(paths))
			for i, p := range paths {
				if err := interrupted(ctx, i); err != nil {
					return err
				}
				if ids[i], err = db.id(c, p); err != nil {
					return err
				}
			}
			return nil
		})
	if err != nil {
		return nil, err
	}
	valid := make([]storepath.Path, 0, len(paths))
	for i, p := range paths {
		if ids[i] != 0 {
			valid = append(valid, p)
		}
	}
	return valid, nil
}

// PathInfos gives one answer for each of paths, in their order: nil for a path
// that is not valid.
func (db *DB) PathInfos(ctx context.Context, paths []storepath.Path) ([]*store.PathInfo, error) {
	var infos []*store.PathInfo
	ask := func(info func(storepath.Path) (*store.PathInfo, error)) error {
		infos = make([]*store.PathInfo, len(paths))
		for i, p := range paths {
			if err := interrupted(ctx, i); err != nil {
				return err
			}
			var err error
			if infos[i], err = info(p); err != nil {
				return err
			}
		}
		return nil
	}
	err := db.ask(ctx, "asking for path infos",
		func(c *conn, v *view) error {
			return ask(func(p storepath.Path) (*store.PathInfo, error) { return db.seenInfo(v, p, c.names()) })
		},
		func(c *conn) error {
			return ask(func(p storepath.Path) (*store.PathInfo, error) { return db.info(c, p, c.names()) })
		})
	if err != nil {
		return nil, err
	}
	return infos, nil
}

// info gives a path's info, nil if it is not valid.
func (db *DB) info(c *conn, p storepath.Path, names names) (info *store.PathInfo, err error) {
	var id int64
	err = c.query("select "+infoColumns+" from ValidPaths where path = ?",
		func(s *sqlite.Stmt) { s.BindText(1, db.o.Dir.Print(p)) },
		func(s *sqlite.Stmt) error { id, info, err = db.scanInfo(s); return err })
	if err != nil || info == nil {
		return nil, err
	}
	names[id] = info.Path
	info.References, err = db.references(c, id, names)
	return info, err
}

// names remembers which path has which number. The table never gives a number
// twice, so a connection that only reads may remember it from one transaction to
// the next.
type names map[int64]storepath.Path

// maxNames is how many a connection remembers, in some 2 MiB.
const maxNames = 16384

// names gives what the connection remembers. When that is too much, some of it goes,
// whichever comes first: what much else refers to is soon there again.
func (c *conn) names() names {
	if c.known == nil || len(c.known) > 2*maxNames {
		c.known = make(names)
	}
	for id := range c.known {
		if len(c.known) <= maxNames {
			break
		}
		delete(c.known, id)
	}
	return c.known
}

// references gives the references of the path with a number, sorted.
func (db *DB) references(c *conn, id int64, names names) ([]storepath.Path, error) {
	var ids []int64
	err := c.query("select reference from Refs where referrer = ?",
		func(s *sqlite.Stmt) { s.BindInt64(1, id) },
		func(s *sqlite.Stmt) error { ids = append(ids, s.ColumnInt64(0)); return nil })
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	refs := make([]storepath.Path, len(ids))
	for i, id := range ids {
		if refs[i], err = db.name(c, id, names); err != nil {
			return nil, err
		}
	}
	return storepath.SortUnique(refs), nil
}

// name gives the path that has a number.
func (db *DB) name(c *conn, id int64, names names) (p storepath.Path, err error) {
	if p, ok := names[id]; ok {
		return p, nil
	}
	err = c.query("select path from ValidPaths where id = ?",
		func(s *sqlite.Stmt) { s.BindInt64(1, id) },
		func(s *sqlite.Stmt) error { p, err = db.scanPath(s, "ValidPaths", rowKey(id)); return err })
	if err == nil && p.IsZero() {
		err = &RowError{Table: "Refs", Key: rowKey(id)(), Err: errNoSuchPath}
	}
	if err == nil {
		names[id] = p
	}
	return p, err
}

// paths runs a statement with one parameter and reads a path from each row.
func (db *DB) paths(c *conn, sql, param, table string) ([]storepath.Path, error) {
	var list []storepath.Path
	err := c.query(sql, func(s *sqlite.Stmt) { s.BindText(1, param) }, func(s *sqlite.Stmt) error {
		p, err := db.scanPath(s, table, func() string { return param })
		list = append(list, p)
		return err
	})
	if err != nil {
		return nil, err
	}
	return storepath.SortUnique(list), nil
}

// Referrers gives, for each of paths, the valid paths that refer to it, sorted.
func (db *DB) Referrers(ctx context.Context, paths []storepath.Path) ([][]storepath.Path, error) {
	var lists [][]storepath.Path
	ask := func(referrers func(storepath.Path) ([]storepath.Path, error)) error {
		lists = make([][]storepath.Path, len(paths))
		for i, p := range paths {
			if err := interrupted(ctx, i); err != nil {
				return err
			}
			var err error
			if lists[i], err = referrers(p); err != nil {
				return err
			}
		}
		return nil
	}
	err := db.ask(ctx, "asking for referrers",
		func(c *conn, v *view) error {
			return ask(func(p storepath.Path) ([]storepath.Path, error) { return db.seenReferrers(v, p, c.names()) })
		},
		func(c *conn) error {
			return ask(func(p storepath.Path) ([]storepath.Path, error) {
				return db.paths(c, "select path from Refs join ValidPaths on referrer = id "+
					"where reference = (select id from ValidPaths where path = ?)", db.o.Dir.Print(p), "ValidPaths")
			})
		})
	if err != nil {
		return nil, err
	}
	return lists, nil
}

// ValidDerivers gives the valid derivations that have p as an output, sorted.
func (db *DB) ValidDerivers(ctx context.Context, p storepath.Path) (list []storepath.Path, err error) {
	err = db.read(ctx, "asking for derivers", func(c *conn) error {
		list, err = db.paths(c, "select v.path from DerivationOutputs d join ValidPaths v on d.drv = v.id where d.path = ?",
			db.o.Dir.Print(p), "ValidPaths")
		return err
	})
	return list, err
}

// DerivationOutputs maps the names of the outputs of a valid derivation to their
// paths, as far as they were known when it became valid.
func (db *DB) DerivationOutputs(ctx context.Context, drv storepath.Path) (map[string]storepath.Path, error) {
	var outputs map[string]storepath.Path
	err := db.read(ctx, "asking for derivation outputs", func(c *conn) error {
		id, err := db.validID(c, drv)
		if err != nil {
			return err
		}
		outputs = map[string]storepath.Path{}
		return c.query("select path, id from DerivationOutputs where drv = ?",
			func(s *sqlite.Stmt) { s.BindInt64(1, id) },
			func(s *sqlite.Stmt) error {
				p, err := db.scanPath(s, "DerivationOutputs", func() string { return db.o.Dir.Print(drv) })
				outputs[s.ColumnText(1)] = p
				return err
			})
	})
	if err != nil {
		return nil, err
	}
	return outputs, nil
}

// PathFromHashPart gives the valid path with that hash part, zero if there is
// none.
func (db *DB) PathFromHashPart(ctx context.Context, hashPart string) (storepath.Path, error) {
	var found storepath.Path
	if err := storepath.CheckHashPart(hashPart); err != nil {
		return found, err
	}
	prefix := string(db.o.Dir) + "/" + hashPart
	err := db.ask(ctx, "asking for a hash part", func(_ *conn, v *view) error {
		path, err := v.next(prefix)
		found = storepath.Path{}
		if err == nil && path != "" {
			found, err = db.o.Dir.Parse(path)
		}
		return err
	}, func(c *conn) error {
		found = storepath.Path{}
		// The next path in order, that is; "like" would not use the index.
		return c.query("select path from ValidPaths where path >= ? limit 1",
			func(s *sqlite.Stmt) { s.BindText(1, prefix) },
			func(s *sqlite.Stmt) (err error) {
				if strings.HasPrefix(s.ColumnText(0), prefix) {
					found, err = db.scanPath(s, "ValidPaths", func() string { return prefix })
				}
				return err
			})
	})
	return found, err
}

// Stats is a database in numbers.
type Stats struct {
	Paths    int64 // valid paths
	NarBytes int64 // sum of their NAR sizes, as far as known
}

// Stats counts. It reads every row.
func (db *DB) Stats(ctx context.Context) (st Stats, err error) {
	err = db.read(ctx, "counting", func(c *conn) error {
		defer c.interruptible(ctx)()
		return c.query("select count(*), coalesce(sum(narSize), 0) from ValidPaths", nil, func(s *sqlite.Stmt) error {
			st = Stats{Paths: s.ColumnInt64(0), NarBytes: s.ColumnInt64(1)}
			return nil
		})
	})
	return st, err
}
