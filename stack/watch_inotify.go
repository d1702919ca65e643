package stack

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/storepath"
)

// What of a lower's directory is told.
const (
	inotifyNames = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_MOVED_FROM
	inotifyGone  = unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_UNMOUNT | unix.IN_IGNORED
)

// listen hears of changes of a lower from the kernel. A directory that goes away is
// looked for again as often as lowers are polled.
func (w *watcher) listen(ctx context.Context, l *watched) {
	for first := true; ; first = false {
		f, err := inotify(l.dir)
		l.problem(err)
		if err == nil {
			if !first {
				w.changed(l) // whatever there is now
			}
			stop := context.AfterFunc(ctx, func() { _ = f.Close() })
			err = w.hear(f, l)
			stop()
			_ = f.Close() // at once, so that nobody is told twice
			if ctx.Err() == nil {
				l.problem(err)
			}
		}
		if !sleep(ctx, w.every) {
			return
		}
	}
}

// inotify watches a directory.
func inotify(dir string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	if _, err := unix.InotifyAddWatch(fd, dir, inotifyNames|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_ONLYDIR); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("inotify: watching '%s': %w", dir, err)
	}
	return os.NewFile(uintptr(fd), "inotify"), nil
}

// errUnwatched says that a directory is not there any more.
var errUnwatched = errors.New("its directory was moved or removed")

// hear reads events until there are no more.
func (w *watcher) hear(f *os.File, l *watched) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := f.Read(buf)
		if err != nil {
			return err
		}
		changed, gone := events(buf[:n])
		if changed {
			w.changed(l)
		}
		if gone {
			return errUnwatched
		}
	}
}

// events tells whether store objects came or went, and whether the directory did.
//
// Source: inotify(7).
func events(b []byte) (changed, gone bool) {
	for len(b) >= unix.SizeofInotifyEvent {
		mask, n := binary.NativeEndian.Uint32(b[4:]), int(binary.NativeEndian.Uint32(b[12:]))
		name := b[unix.SizeofInotifyEvent:]
		if n > len(name) {
			return true, gone // cannot be; then better once too often
		}
		name = name[:n]
		b = b[unix.SizeofInotifyEvent+n:]
		switch {
		case mask&unix.IN_Q_OVERFLOW != 0:
			changed = true
		case mask&inotifyGone != 0:
			changed, gone = true, true
		case mask&inotifyNames != 0:
			changed = changed || isObject(string(bytes.TrimRight(name, "\x00")))
		}
	}
	return changed, gone
}

// isObject tells an object from what lies beside objects while they are made.
func isObject(name string) bool {
	for _, suffix := range []string{".lock", ".chroot", ".check", ".tmp"} {
		if len(name) > len(suffix) && name[len(name)-len(suffix):] == suffix {
			return false
		}
	}
	_, err := storepath.ParseBase(name)
	return err == nil
}
