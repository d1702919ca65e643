package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/strata-nix/strata/internal/crashpoint"
)

// findBrokenLocks looks at the locks by which processes keep out of each other's way, and
// at the directories in which they put what others must see.
func findBrokenLocks(_ context.Context, x *examination, say func(*Finding)) error {
	if !x.selected[0] || x.ReadOnly {
		return nil
	}
	state, err := os.Stat(x.StateDir)
	if err != nil {
		return err
	}
	for _, path := range x.locks() {
		if why := lockFault(path, state); why != "" {
			say(&Finding{Path: path, Detail: why})
		}
	}
	return nil
}

// What processes lock, in the state directory.
const (
	collectorLock = "gc.lock"
	temporaryDir  = "temproots"
)

func (x *examination) locks() []string {
	return []string{filepath.Join(x.StateDir, collectorLock), filepath.Join(x.StateDir, temporaryDir)}
}

// lockFault says what is wrong with a lock file, or a directory of them; one that is
// not there is made by the first who needs it.
func lockFault(path string, state fs.FileInfo) string {
	const needed = 0o600
	fi, err := os.Lstat(path)
	dir := filepath.Base(path) == temporaryDir
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ""
	case err != nil:
		return err.Error()
	case dir && !fi.IsDir():
		return "it is no directory"
	case !dir && !fi.Mode().IsRegular():
		return fmt.Sprintf("it is no regular file (%s)", fi.Mode())
	case fi.Mode().Perm()&needed != needed:
		return fmt.Sprintf("its mode is %04o, so that its owner cannot lock it", fi.Mode().Perm())
	}
	mine, ok := fi.Sys().(*syscall.Stat_t)
	theirs, ok2 := state.Sys().(*syscall.Stat_t)
	if ok && ok2 && mine.Uid != theirs.Uid {
		return fmt.Sprintf("it belongs to user %d, and the state directory to %d", mine.Uid, theirs.Uid)
	}
	return ""
}

// mendLock sets mode and owner of a lock, or puts aside what is in its place.
func mendLock(_ context.Context, r *repairs, f *Finding) error {
	state, err := os.Stat(r.StateDir)
	if err != nil {
		return err
	}
	fi, err := os.Lstat(f.Path)
	if err != nil || lockFault(f.Path, state) == "" {
		return err
	}
	wanted := fs.FileMode(0o600)
	if fi.IsDir() {
		wanted = 0o755
	}
	if isDir := filepath.Base(f.Path) == temporaryDir; fi.IsDir() != isDir || !fi.IsDir() && !fi.Mode().IsRegular() {
		if err := putAside(f.Path); err != nil {
			return err
		}
		crashpoint.Reached("check: what was no lock put aside")
		if isDir {
			return os.Mkdir(f.Path, 0o755)
		}
		lock, err := os.OpenFile(f.Path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		return lock.Close()
	}
	if st, ok := state.Sys().(*syscall.Stat_t); ok {
		if err := os.Lchown(f.Path, int(st.Uid), int(st.Gid)); err != nil && os.Geteuid() == 0 {
			return err
		}
	}
	return os.Chmod(f.Path, fi.Mode().Perm()|wanted)
}

// putAside renames what is in the way of something, and keeps it. A symlink is worth
// nothing.
func putAside(path string) error {
	if fi, err := os.Lstat(path); err == nil && fi.Mode().Type() == fs.ModeSymlink {
		return os.Remove(path)
	}
	for n := 1; ; n++ {
		to := fmt.Sprintf("%s.broken-%d", path, n)
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			return os.Rename(path, to)
		}
	}
}
