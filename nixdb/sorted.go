package nixdb

import (
	"context"
	"iter"

	"zombiezen.com/go/sqlite"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

// Row is what the database says of a path, but for what takes longer to find.
type Row struct {
	ID      int64
	Path    storepath.Path
	NarHash nixhash.Hash // zero: it cannot be understood
	NarSize uint64       // 0: unknown
	Signed  bool         // it has signatures
}

// sortedPage is how many rows SortedRows reads in one transaction.
const sortedPage = 4096

// SortedRows lists the rows of all paths behind after in the order of their paths, as
// they are when their page's turn comes. Rows whose path cannot be understood are left
// out; Check tells of them. An error ends it.
func (db *DB) SortedRows(ctx context.Context, after storepath.Path) iter.Seq2[[]Row, error] {
	return func(yield func([]Row, error) bool) {
		last := string(db.o.Dir) + "/"
		if !after.IsZero() {
			last = db.o.Dir.Print(after)
		}
		for {
			var rows []Row
			n, from := 0, last
			err := db.read(ctx, "listing all paths in order", func(c *conn) error {
				rows, n, last = make([]Row, 0, sortedPage), 0, from
				return c.query("select path, id, hash, narSize, sigs is not null from ValidPaths where path > ? order by path limit ?",
					func(s *sqlite.Stmt) { s.BindText(1, from); s.BindInt64(2, sortedPage) },
					func(s *sqlite.Stmt) error {
						n++
						last = s.ColumnText(0)
						p, err := db.o.Dir.Parse(last)
						if err != nil {
							return nil //nolint:nilerr // see above
						}
						r := Row{ID: s.ColumnInt64(1), Path: p, NarSize: uint64(max(0, s.ColumnInt64(3))), Signed: s.ColumnInt64(4) != 0}
						r.NarHash, _ = nixhash.Parse(s.ColumnText(2))
						rows = append(rows, r)
						return nil
					})
			})
			if err == nil {
				err = db.named(ctx, "listing all paths in order", failureOf(ctx))
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if len(rows) > 0 && !yield(rows, nil) || n < sortedPage {
				return
			}
		}
	}
}

// LookUp gives the row of each of paths, in their order; one without an ID is not there.
// A hash that cannot be understood is zero.
func (db *DB) LookUp(ctx context.Context, paths []storepath.Path) ([]Row, error) {
	var rows []Row
	err := db.read(ctx, "looking up paths", func(c *conn) error {
		rows = make([]Row, len(paths))
		for i, p := range paths {
			if err := interrupted(ctx, i); err != nil {
				return err
			}
			rows[i].Path = p
			if err := c.query("select id, hash, narSize, sigs is not null from ValidPaths where path = ?",
				func(s *sqlite.Stmt) { s.BindText(1, db.o.Dir.Print(p)) },
				func(s *sqlite.Stmt) error {
					rows[i].ID, rows[i].NarSize = s.ColumnInt64(0), uint64(max(0, s.ColumnInt64(2)))
					rows[i].NarHash, _ = nixhash.Parse(s.ColumnText(1))
					rows[i].Signed = s.ColumnInt64(3) != 0
					return nil
				}); err != nil {
				return err
			}
		}
		return nil
	})
	return rows, err
}
