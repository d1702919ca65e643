package stack

import (
	"context"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// generationFile is a file that the owner of a lower may write to its state directory
// whenever the lower has grown, for file systems on which nothing else tells.
const generationFile = "strata-generation"

// sign is what shows on a lower that it has changed.
type sign struct {
	dir   fileSign // new names change its time
	files [3]fileSign
}

// fileSign is what changes with a file.
type fileSign struct {
	dev, ino, size uint64
	mtime, ctime   int64
}

// signOf looks at the store directory of a lower, at its database and at the file of
// its owner. What cannot be looked at is zero.
func signOf(dir, state string) (s sign) {
	s.dir = fileSignOf(dir)
	if state == "" {
		return s
	}
	db := filepath.Join(state, dbInState)
	for i, path := range []string{db, db + "-wal", filepath.Join(state, generationFile)} {
		s.files[i] = fileSignOf(path)
	}
	return s
}

func fileSignOf(path string) fileSign {
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &st) != nil {
		return fileSign{}
	}
	return fileSign{
		dev: uint64(st.Dev_major)<<32 | uint64(st.Dev_minor), ino: st.Ino, size: st.Size,
		mtime: nanos(st.Mtime), ctime: nanos(st.Ctime),
	}
}

func nanos(t unix.StatxTimestamp) int64 { return t.Sec*1e9 + int64(t.Nsec) }

// coarse is how exact times of directories are on the worst of file systems.
const coarse = 2 * time.Second

// poll looks at a lower from time to time.
func (w *watcher) poll(ctx context.Context, l *watched, last sign) {
	every := w.every
	if l.st.How == WatchInotify { // what the kernel told is seen here once more, and late
		every *= rareLook
	}
	for sleep(ctx, every) {
		now := signOf(l.dir, l.state)
		if now == last {
			continue
		}
		// Where times are coarse, a change may hide behind the one just seen.
		age := time.Since(time.Unix(0, now.dir.mtime))
		if now.dir != last.dir && age < coarse && age > -coarse {
			last = sign{files: now.files}
		} else {
			last = now
		}
		w.changed(l)
	}
}
