package nixdb

// SetLoadBatch makes Load work in small batches, so that tests need not load much
// to have several.
func (db *DB) SetLoadBatch(n int) { db.batch = n }
