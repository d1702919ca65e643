package nixdb

import (
	"context"
	"weak"

	"zombiezen.com/go/sqlite"

	"github.com/strata-nix/strata/nixdb/btree"
	"github.com/strata-nix/strata/storepath"
)

// listing is the list of all paths that was made last, for as long as somebody has
// it: many who ask at once for a million paths shall not have a million each.
type listing struct {
	turn lane // whose turn it is to make one, and guards what follows
	of   dbState
	last weak.Pointer[storepath.List]
}

// dbState is a state of a database.
type dbState struct {
	of  *handle
	log walHeader
}

// ListPaths gives all valid paths as they are at one moment. The list may be shared:
// it must not be added to.
func (db *DB) ListPaths(ctx context.Context) (list *storepath.List, err error) {
	if err := db.listing.turn.enter(ctx); err != nil {
		return nil, db.named(ctx, "listing all paths", failure{err})
	}
	defer db.listing.turn.leave()
	var seen dbState // what list is of, if it is to be kept
	err = db.ask(ctx, "listing all paths",
		func(_ *conn, v *view) error {
			seen = v.state()
			if list = db.listing.last.Value(); list != nil && db.listing.of == seen {
				return nil
			}
			list = new(storepath.List)
			return v.all(ctx, func(text string) error { return db.addTo(list, text) })
		},
		func(c *conn) error {
			defer c.interruptible(ctx)()
			seen, list = dbState{}, new(storepath.List)
			return c.query("select path, id from ValidPaths", nil, func(s *sqlite.Stmt) error {
				p, err := db.scanPath(s, "ValidPaths", rowKey(s.ColumnInt64(1)))
				if err == nil {
					list.Add(p)
				}
				return err
			})
		})
	if err != nil {
		return nil, err
	}
	if seen.of != nil {
		db.listing.of, db.listing.last = seen, weak.Make(list)
	}
	return list, nil
}

func (db *DB) addTo(list *storepath.List, text string) error {
	p, err := db.o.Dir.Parse(text)
	if err == nil {
		list.Add(p)
	}
	return err
}

// all visits the paths of all rows.
func (v *view) all(ctx context.Context, visit func(path string) error) error {
	i := 0
	return v.file.Tree(v.layout.paths).Rows(0, func(_ int64, r btree.Record) (bool, error) {
		if i++; i%checkEvery == 0 && ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		text, err := v.pathOf(r)
		if err == nil {
			err = visit(text)
		}
		return err == nil, err
	})
}
