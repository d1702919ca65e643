package nixdb

import (
	"errors"
	"fmt"

	"github.com/strata-nix/strata/store"
	"zombiezen.com/go/sqlite"
)

// What can be wrong with the database as a whole; errors.Is finds them in an
// [Error].
var (
	// ErrBusy: somebody else held the database for as long as the caller waited.
	ErrBusy = errors.New("database is busy")
	// ErrFull: the disk is full. Nothing of the transaction is in the database.
	ErrFull = errors.New("disk is full")
	// ErrCorrupt: the file is not (any more) a database in order. It is a
	// [store.ErrDamaged] too.
	ErrCorrupt = errors.New("database is corrupt")
	// ErrGone: the database was removed, and cannot be made anew.
	ErrGone = errors.New("database is gone")
	// ErrClosed: the DB was used after Close.
	ErrClosed = errors.New("database is closed")
)

// errBusy says that a request gave up waiting.
var errBusy = errors.New("others still lock it")

var errNoSuchPath = errors.New("no path has this number")

// errChanged: a file that is open for reading only was changed during a request,
// whose answer is therefore worth nothing.
var errChanged = fmt.Errorf("%w: its file changes again and again while it is read", ErrBusy)

// Error is a failure of SQLite or of the files around it.
type Error struct {
	Op   string // "registering paths"
	File string
	Err  error
}

func (e *Error) Error() string { return e.Op + ": database '" + e.File + "': " + e.Err.Error() }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is sorts SQLite's result codes by what the receiver must do.
func (e *Error) Is(target error) bool {
	switch code := codeOf(e.Err); target {
	case ErrBusy:
		return code == sqlite.ResultBusy || code == sqlite.ResultProtocol || code == sqlite.ResultLocked
	case ErrFull:
		return code == sqlite.ResultFull
	case ErrCorrupt, store.ErrDamaged:
		return isCorrupt(e.Err)
	case store.ErrReadOnly:
		return code == sqlite.ResultReadOnly
	}
	return false
}

// failure marks what SQLite said, until the request that met it is named.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

func isCorrupt(err error) bool {
	code := codeOf(err)
	return code == sqlite.ResultCorrupt || code == sqlite.ResultNotADB
}

// isChanged tells that a read-only request met a change, and is to be made again.
func isChanged(err error) bool {
	var l *LogError
	return errors.Is(err, errChanged) || errors.As(err, &l) && l.passing
}

func isBusy(err error) bool {
	code := codeOf(err)
	return code == sqlite.ResultBusy || code == sqlite.ResultProtocol || code == sqlite.ResultLocked
}

// isReadOnly tells that something cannot be done without writing.
//
// A connection that reads the log without a right to write hears that while the index of
// the log is not made yet, or has no place for one more reader: who writes sees to both
// in a moment. A connection for writing hears it when another one of this process reads
// the log without that right: SQLite then has opened the index for reading only, for
// all connections until the last one has closed it.
func isReadOnly(err error) bool { return codeOf(err) == sqlite.ResultReadOnly }

// isMoved tells that SQLite noticed that its file has another name now, or none.
func isMoved(err error) bool { return sqlite.ErrCode(err) == sqlite.ResultReadOnlyDBMoved }

func codeOf(err error) sqlite.ResultCode { return sqlite.ErrCode(err).ToPrimary() }

// SchemaError says that a database is of a version that cannot be used.
type SchemaError struct {
	Dir  string
	Have int // 0: there is no database
	Why  string
}

func (e *SchemaError) Error() string { return fmt.Sprintf("database directory '%s': %s", e.Dir, e.Why) }

// LogError says that a database cannot be read without writing, as there are
// changes beside it that were not written back.
type LogError struct {
	File string // the log that is not empty
	Err  error  // what SQLite said; may be nil

	passing bool // it may be empty again in a moment
}

func (e *LogError) Error() string {
	s := fmt.Sprintf("changes in '%s' have not been written back to the database, so it cannot be opened read-only here: "+
		"open the store once for writing (any command of its owner will do), or copy it to where it can be", e.File)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap gives the cause.
func (e *LogError) Unwrap() error { return e.Err }

// RowError is a row that cannot be understood. It is a [store.ErrDamaged].
type RowError struct {
	Table string
	Key   string // what finds the row: a path, or "id 17"
	Err   error
}

func (e *RowError) Error() string {
	return fmt.Sprintf("row '%.300s' of table %s in the database is damaged: %v", e.Key, e.Table, e.Err)
}

// Unwrap makes it a store.ErrDamaged.
func (e *RowError) Unwrap() []error { return []error{store.ErrDamaged, e.Err} }

// InUseError says that a path cannot become invalid since another refers to it.
type InUseError struct{ Path, By string }

func (e *InUseError) Error() string {
	return fmt.Sprintf("cannot delete path '%s' because it is in use by '%s'", e.Path, e.By)
}

// Unwrap makes it a store.ErrAlive.
func (e *InUseError) Unwrap() error { return store.ErrAlive }

// CycleError says that paths refer to each other in a circle.
type CycleError struct {
	Paths []string // each refers to the next, the last to the first
}

func (e *CycleError) Error() string {
	return fmt.Sprintf("cycle detected in the references of '%s' from '%s'", e.Paths[0], e.Paths[len(e.Paths)-1])
}

// ContentAddressError says that a path does not follow from its content address.
type ContentAddressError struct{ Path string }

func (e *ContentAddressError) Error() string {
	return fmt.Sprintf("cannot add path '%s' to the Nix store because it claims to be content-addressed but isn't", e.Path)
}

// Unwrap makes it a store.ErrMismatch.
func (e *ContentAddressError) Unwrap() error { return store.ErrMismatch }

// RealisationConflictError says that an output of a derivation has two results.
type RealisationConflictError struct{ ID, Have, Got string }

func (e *RealisationConflictError) Error() string {
	return fmt.Sprintf("Trying to register a realisation of '%s', but we already have another one locally.\nLocal:  %s\nRemote: %s", e.ID, e.Have, e.Got)
}
