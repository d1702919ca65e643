package nixdb

import (
	"context"

	"zombiezen.com/go/sqlite"

	"github.com/strata-nix/strata/store"
)

// Sample gives up to n infos, without their references, of rows that lie at even
// distances between the first and the last. It takes no longer in a large database
// than in a small one, and gives the same rows as long as nothing changes.
func (db *DB) Sample(ctx context.Context, n int) ([]*store.PathInfo, error) {
	var infos []*store.PathInfo
	err := db.read(ctx, "looking at some paths", func(c *conn) error {
		infos = nil
		var first, last int64
		if err := c.query("select coalesce((select min(id) from ValidPaths), 0), coalesce((select max(id) from ValidPaths), 0)", nil,
			func(s *sqlite.Stmt) error { first, last = s.ColumnInt64(0), s.ColumnInt64(1); return nil }); err != nil {
			return err
		}
		for i, next := int64(0), first; i < int64(n) && next <= last && last > 0; i++ {
			at := max(next, first+i*max((last-first)/int64(max(n-1, 1)), 1))
			next = last + 1
			if err := c.query("select "+infoColumns+" from ValidPaths where id >= ? order by id limit 1",
				func(s *sqlite.Stmt) { s.BindInt64(1, at) },
				func(s *sqlite.Stmt) error {
					id, info, err := db.scanInfo(s)
					infos, next = append(infos, info), id+1
					return err
				}); err != nil {
				return err
			}
		}
		return nil
	})
	return infos, err
}
