package nixdb

import (
	"testing"
	"time"
)

// SetLoadBatch makes Load work in small batches, so that tests need not load much
// to have several.
func (db *DB) SetLoadBatch(n int) { db.batch = n }

// SetPatience is for how long databases that are opened from now on have their
// readers wait for others, until the end of the test.
func SetPatience(t testing.TB, d time.Duration) {
	was := maxPatience
	maxPatience = d
	t.Cleanup(func() { maxPatience = was })
}
