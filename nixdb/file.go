package nixdb

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// fileState is what can be seen of a database from outside: enough to notice
// that it was replaced or, for one opened immutable, changed.
type fileState struct {
	dev     [2]uint32
	ino     uint64
	birth   int64 // ns; numbers of deleted files are used again. 0: not known
	size    int64
	mtime   int64 // ns
	log     int64 // bytes in db.sqlite-wal
	logIno  uint64
	journal int64 // bytes in db.sqlite-journal
}

// look takes the state of the database at file; the zero state means that there
// is none.
func look(file string) (fileState, error) {
	var st unix.Statx_t
	if err := statx(file, &st); err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			err = nil
		}
		return fileState{}, err
	}
	s := fileState{dev: [2]uint32{st.Dev_major, st.Dev_minor}, ino: st.Ino, size: int64(st.Size), mtime: nano(st.Mtime)}
	if st.Mask&unix.STATX_BTIME != 0 {
		s.birth = nano(st.Btime)
	}
	return s, nil
}

func nano(t unix.StatxTimestamp) int64 { return t.Sec*1e9 + int64(t.Nsec) }

// lookForWriting is look with the identity of the write-ahead log.
func lookForWriting(file string) (fileState, error) {
	s, err := look(file)
	if err == nil && !s.missing() {
		s.log, s.logIno, err = lookBeside(file + "-wal")
	}
	return s, err
}

// lookClosely is look with all that there may be beside the database.
func lookClosely(file string) (fileState, error) {
	s, err := lookForWriting(file)
	if err == nil && !s.missing() {
		s.journal, _, err = lookBeside(file + "-journal")
	}
	return s, err
}

func lookBeside(file string) (size int64, ino uint64, err error) {
	var st unix.Statx_t
	if err := statx(file, &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			err = nil
		}
		return 0, 0, err
	}
	return int64(st.Size), st.Ino, nil
}

func statx(file string, st *unix.Statx_t) error {
	for {
		err := unix.Statx(unix.AT_FDCWD, file, 0, unix.STATX_BASIC_STATS|unix.STATX_BTIME, st)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (s fileState) missing() bool { return s == fileState{} }

func (s fileState) sameFile(t fileState) bool {
	return s.dev == t.dev && s.ino == t.ino && s.birth == t.birth
}

// logHead is how long the header of a write-ahead log is. It is on disk before
// anything else is, so that a process that was killed may leave a log of nothing but
// that.
const logHead = 32

// logged tells whether there is something beside the database that belongs in it.
//
// It is not for speed that a log of just a header counts as none: SQLite, when it may
// not write, takes such a log for one that is being replaced, and waits for that.
func (s fileState) logged() bool { return s.log > logHead || s.journal > 0 }

// unsettled is the time in which a file may be changed twice without a change of
// its mtime, on kernels whose clock for files is coarse.
const unsettled = 20 * time.Millisecond

// settled tells whether a later change must show in the mtime, if the state was
// taken at the time now.
func (s fileState) settled(now time.Time) bool {
	age := now.Sub(time.Unix(0, s.mtime))
	return age > unsettled || age < -unsettled
}
