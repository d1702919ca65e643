package nixdb

import (
	"encoding/binary"
	"errors"
	"os"
	"time"
)

// openReadOnly opens what is there without touching it. When there is nothing
// beside the database, SQLite is told that nobody changes it: then it needs no
// locks and no files of its own, and works on read-only media. (That it does
// change, others being at work, is noticed by its size and mtime; see
// handle.fresh and DB.read.) With a log beside it SQLite must read that too.
func (db *DB) openReadOnly() (*handle, error) {
	at := time.Now()
	state, err := lookClosely(db.file)
	if err != nil {
		return nil, &Error{Op: "opening", File: db.file, Err: err}
	}
	if err := db.checkSchemaReadOnly(state); err != nil {
		return nil, err
	}
	h := &handle{access: immutable, state: state, at: at}
	if state.logged() {
		h.access = withLog
		if state.journal > 0 && db.o.NoWAL {
			// Its writer locks with a file, and to make one is to write.
			return nil, &LogError{File: db.logFile(state), passing: true}
		}
		if err := db.checkLogHead(state); err != nil {
			return nil, err
		}
	}
	c, err := db.dial(h, false)
	if err != nil {
		return nil, err
	}
	if h.access == withLog { // see handle.put
		_ = c.Close()
		return h, nil
	}
	h.readers = append(h.readers, c)
	return h, nil
}

// checkSchemaReadOnly refuses what cannot be read as it is.
func (db *DB) checkSchemaReadOnly(state fileState) error {
	version, err := readSchema(db.dir)
	switch {
	case err != nil:
		return err
	case version == 0 || state.missing():
		return &SchemaError{Dir: db.dir, Why: "database does not exist, and cannot be created in read-only mode"}
	case version < SchemaVersion:
		return &SchemaError{Dir: db.dir, Have: version, Why: "database schema needs migrating, but this cannot be done in read-only mode"}
	}
	return checkSchemaNotNewer(db.dir, version)
}

var errLogHead = errors.New("its header makes no sense")

// checkLogHead refuses a log that SQLite would pass over if it might write. As it may
// not, it would wait without end for a header that the log does not have. Its log is
// the one file of SQLite's that is never locked, so that it may be opened beside it.
func (db *DB) checkLogHead(state fileState) error {
	if state.log <= logHead {
		return nil
	}
	f, err := os.Open(db.file + "-wal")
	if err != nil {
		return nil //nolint:nilerr // SQLite will say what there is to say
	}
	defer f.Close()
	var head [logHead]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return errChanged // it was written back
	}
	const magic = 0x377f0682 // or one more, which says how its sums are made
	size := binary.BigEndian.Uint32(head[8:])
	if binary.BigEndian.Uint32(head[:])&^1 != magic || size&(size-1) != 0 || size < 512 || size > 65536 {
		return &LogError{File: f.Name(), Err: errLogHead}
	}
	return nil
}

func (db *DB) logFile(s fileState) string {
	if s.log == 0 && s.journal > 0 {
		return db.file + "-journal"
	}
	return db.file + "-wal"
}
