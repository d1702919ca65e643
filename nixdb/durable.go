package nixdb

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// syncLog waits until what was committed is on disk. SQLite itself, set as Nix sets
// it, only sees to it that after a power cut the database is as it was at some moment.
// Whoever deletes files after their rows must know that the rows do not come back.
func (db *DB) syncLog() error {
	if db.o.NoSync || db.o.NoWAL { // a rollback journal is on disk at each commit
		return nil
	}
	f, err := os.Open(db.file + "-wal")
	if errors.Is(err, fs.ErrNotExist) {
		return nil // all of it was written back
	}
	if err == nil {
		err = errors.Join(unix.Fdatasync(int(f.Fd())), f.Close())
	}
	if err != nil {
		return &Error{Op: "waiting for the disk", File: db.file, Err: err}
	}
	return nil
}
