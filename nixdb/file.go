package nixdb

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// fileState is what can be seen of a database from outside: enough to notice
// that it was replaced or, for one opened immutable, changed.
type fileState struct {
	dev, ino uint64
	size     int64
	mtime    int64 // ns
	log      int64 // bytes in db.sqlite-wal
	journal  int64 // bytes in db.sqlite-journal
}

// look takes the state of the database at file; the zero state means that there
// is none.
func look(file string) (fileState, error) {
	var st unix.Stat_t
	if err := stat(file, &st); err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			err = nil
		}
		return fileState{}, err
	}
	return fileState{dev: st.Dev, ino: st.Ino, size: st.Size, mtime: st.Mtim.Nano()}, nil
}

// lookClosely is look with the sizes of the logs.
func lookClosely(file string) (fileState, error) {
	s, err := look(file)
	if err != nil || s.missing() {
		return s, err
	}
	for suffix, size := range map[string]*int64{"-wal": &s.log, "-journal": &s.journal} {
		var st unix.Stat_t
		switch err := stat(file+suffix, &st); {
		case err == nil:
			*size = st.Size
		case !errors.Is(err, unix.ENOENT):
			return s, err
		}
	}
	return s, nil
}

func stat(file string, st *unix.Stat_t) error {
	for {
		err := unix.Stat(file, st)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (s fileState) missing() bool { return s == fileState{} }

func (s fileState) sameFile(t fileState) bool { return s.dev == t.dev && s.ino == t.ino }

// logged tells whether there is something beside the database that belongs in it.
func (s fileState) logged() bool { return s.log > 0 || s.journal > 0 }

// unsettled is the time in which a file may be changed twice without a change of
// its mtime, on kernels whose clock for files is coarse.
const unsettled = 20 * time.Millisecond

// settled tells whether a later change must show in the mtime, if the state was
// taken at the time now.
func (s fileState) settled(now time.Time) bool {
	age := now.Sub(time.Unix(0, s.mtime))
	return age > unsettled || age < -unsettled
}
