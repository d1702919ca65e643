package nixdb

import (
	"context"

	"zombiezen.com/go/sqlite"
)

// MaxPaths is how many paths there are at most: the highest number that was
// given to a row. It takes no longer in a large database than in a small one.
func (db *DB) MaxPaths(ctx context.Context) (most int64, err error) {
	err = db.read(ctx, "counting", func(c *conn) error {
		return c.query("select coalesce(max(id), 0) from ValidPaths", nil, func(s *sqlite.Stmt) error {
			most = s.ColumnInt64(0)
			return nil
		})
	})
	return most, err
}
