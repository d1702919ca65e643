package nixdb

import (
	"context"

	"github.com/strata-nix/strata/storepath"
)

// ClosureOptions say which way a closure goes.
type ClosureOptions struct {
	// Referrers follows references backwards.
	Referrers bool
}

// Closure gives roots and everything that they reach through references, in no
// particular order. The roots must be valid.
func (db *DB) Closure(ctx context.Context, roots []storepath.Path, o ClosureOptions) ([]storepath.Path, error) {
	sql := "select reference from Refs where referrer = ?"
	if o.Referrers {
		sql = "select referrer from Refs where reference = ?"
	}
	var closure []storepath.Path
	err := db.ask(ctx, "computing a closure",
		func(c *conn, v *view) (err error) {
			closure, err = db.seenClosure(ctx, v, roots, o, c.names())
			return err
		},
		func(c *conn) error {
			ids, err := db.closureIDs(ctx, c, roots, sql)
			if err != nil {
				return err
			}
			closure = make([]storepath.Path, len(ids))
			names := c.names()
			for i, id := range ids {
				if err := interrupted(ctx, i); err != nil {
					return err
				}
				if closure[i], err = db.name(c, id, names); err != nil {
					return err
				}
			}
			return nil
		})
	if err != nil {
		return nil, err
	}
	return closure, nil
}

// closureIDs is the closure in numbers, which take no parsing.
func (db *DB) closureIDs(ctx context.Context, c *conn, roots []storepath.Path, sql string) ([]int64, error) {
	seen := map[int64]struct{}{}
	var ids []int64
	add := func(id int64) {
		if _, ok := seen[id]; !ok {
			seen[id] = struct{}{}
			ids = append(ids, id)
		}
	}
	for _, p := range roots {
		id, err := db.validID(c, p)
		if err != nil {
			return nil, err
		}
		add(id)
	}
	s, err := c.Prepare(sql)
	if err != nil {
		return nil, failure{err}
	}
	for i := 0; i < len(ids); i++ { // ids grows
		if err := interrupted(ctx, i); err != nil {
			return nil, err
		}
		s.BindInt64(1, ids[i])
		if err := each(s, func() error { add(s.ColumnInt64(0)); return nil }); err != nil {
			return nil, err
		}
	}
	return ids, nil
}
