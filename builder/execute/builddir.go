package execute

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/nar"
)

// buildDirPrefix begins the names of our build directories.
const buildDirPrefix = "strata-"

// Modes of the outer directory of a build: one that belongs to a running build, and
// one that is kept for people to look at.
const (
	modeRunning = 0o700
	modeKept    = 0o755
)

// owner is who a file is made for, when that is not this process's user.
type owner struct{ uid, gid int }

// buildDir is the directory in which a builder works. It is locked as long as it
// is open: one that nobody has locked was left behind.
type buildDir struct {
	top  string // the outer directory
	path string // where the builder works, top or below it
	dir  *os.File
	lock *flock.Lock // of top
}

var buildDirCount atomic.Uint64

// newBuildDir makes a build directory in parent. With below, the builder's own one
// lies below one that only this process can enter. Both belong to own, if not nil,
// but for the outer one of two.
func newBuildDir(ctx context.Context, parent string, below bool, own *owner) (*buildDir, error) {
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return nil, fmt.Errorf("creating the directory for builds: %w", err)
	}
	if own != nil {
		if err := checkNobodyMoves(parent); err != nil {
			return nil, err
		}
	}
	sweepOnce(ctx, parent)
	d, err := lockedDir(parent)
	if err != nil {
		return nil, fmt.Errorf("creating a build directory: %w", err)
	}
	if err := d.open(below, own); err != nil {
		d.remove(ctx)
		return nil, fmt.Errorf("creating a build directory: %w", err)
	}
	return d, nil
}

// lockedDir makes and locks the outer directory.
func lockedDir(parent string) (*buildDir, error) {
	for {
		top := filepath.Join(parent, fmt.Sprintf("%s%d-%d", buildDirPrefix, os.Getpid(), buildDirCount.Add(1)))
		err := os.Mkdir(top, modeRunning)
		if errors.Is(err, fs.ErrExist) {
			continue // from an earlier process with our number
		}
		if err != nil {
			return nil, err
		}
		lock, err := flock.OpenDir(top)
		if errors.Is(err, fs.ErrNotExist) {
			continue // swept away before it was locked
		}
		if err != nil {
			return nil, errors.Join(err, os.Remove(top))
		}
		ok, err := lock.Try(flock.Exclusive)
		if err == nil && ok && sameFile(lock.File(), top) {
			return &buildDir{top: top, path: top, lock: lock}, nil
		}
		_ = lock.Close()
		if err != nil {
			return nil, errors.Join(err, os.Remove(top))
		}
	}
}

// sameFile tells whether path is still the open file.
func sameFile(f *os.File, path string) bool {
	have, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(path)
	return err == nil && os.SameFile(have, there)
}

// open makes and opens the directory in which the builder works.
func (d *buildDir) open(below bool, own *owner) error {
	if below {
		d.path = filepath.Join(d.top, "build")
		if err := os.Mkdir(d.path, 0o700); err != nil {
			return err
		}
	}
	dir, err := os.OpenFile(d.path, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	d.dir = dir
	if own != nil {
		return dir.Chown(own.uid, own.gid)
	}
	return nil
}

// write makes a file in the build directory that belongs to own. The name is one
// component; nothing may have that name yet.
func (d *buildDir) write(name, contents string, own *owner) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("creating file %.100q in the build directory: not a name of a file", name)
	}
	fail := func(err error) error {
		return &os.PathError{Op: "creating file", Path: filepath.Join(d.path, name), Err: err}
	}
	fd, err := unix.Openat(int(d.dir.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o666)
	if err != nil {
		return fail(err)
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.WriteString(contents)
	if err == nil && own != nil {
		err = f.Chown(own.uid, own.gid)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fail(err)
	}
	return nil
}

// remove deletes the build directory. No process of the builder may be left.
func (d *buildDir) remove(ctx context.Context) {
	// Whoever still has a directory of it open finds no way in by name.
	_ = os.Chmod(d.top, 0)
	if _, err := nar.RemoveTree(context.WithoutCancel(ctx), d.top); err != nil && !errors.Is(err, fs.ErrNotExist) {
		activity.Warnf(ctx, "removing build directory: %v", err)
	}
	d.close()
}

// keep leaves the build directory to whoever wants to look at it.
func (d *buildDir) keep(ctx context.Context) {
	for _, dir := range []string{d.path, d.top} {
		if err := os.Chmod(dir, modeKept); err != nil {
			activity.Warnf(ctx, "keeping the build directory: %v", err)
		}
	}
	activity.Logf(ctx, activity.Error, "note: keeping build directory \"%s\"", d.path)
	d.close()
}

func (d *buildDir) close() {
	if d.dir != nil {
		_ = d.dir.Close() // nothing was written through it
	}
	_ = d.lock.Close()
}

// swept are the directories for builds that this process has looked through.
var swept sync.Map

// sweepOnce removes what processes left behind that were killed, the first time
// that this process builds in parent.
func sweepOnce(ctx context.Context, parent string) {
	if _, seen := swept.LoadOrStore(parent, true); !seen {
		sweep(ctx, parent)
	}
}

// sweep is sweepOnce each time.
func sweep(ctx context.Context, parent string) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		activity.Warnf(ctx, "looking for old build directories: %v", err)
		return
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), buildDirPrefix) {
			sweepOne(ctx, filepath.Join(parent, e.Name()))
		}
	}
}

func sweepOne(ctx context.Context, top string) {
	info, err := os.Lstat(top)
	if err != nil || !info.IsDir() || info.Mode().Perm() == modeKept {
		return
	}
	if info.Mode().Perm() == 0 {
		_ = os.Chmod(top, modeRunning) // it was being removed
	}
	lock, err := flock.OpenDir(top)
	if err != nil {
		return // somebody else's, or gone
	}
	d := &buildDir{top: top, path: top, lock: lock}
	if ok, err := lock.Try(flock.Exclusive); err != nil || !ok || !sameFile(lock.File(), top) {
		d.close()
		return
	}
	activity.Logf(ctx, activity.Talkative, "removing the build directory '%s' of a process that is gone", top)
	d.remove(ctx)
}

// checkNobodyMoves refuses a directory for builds that others could put something
// else in the place of: its parents must be changed by none but their owners.
func checkNobodyMoves(parent string) error {
	resolved, err := filepath.EvalSymlinks(parent)
	if err != nil {
		return fmt.Errorf("looking at the directory for builds: %w", err)
	}
	for _, dir := range []string{parent, resolved} {
		for leaf := true; ; leaf = false {
			info, err := os.Lstat(dir)
			if err != nil {
				return fmt.Errorf("looking at the directory for builds: %w", err)
			}
			mode := info.Mode()
			// In a sticky directory entries can be changed by their owners only.
			if mode.Type() != fs.ModeSymlink && mode.Perm()&0o002 != 0 && (leaf || mode&fs.ModeSticky == 0) {
				//lint:ignore ST1005 upstream's words
				return fmt.Errorf("Path \"%s\" is world-writable or a symlink. That's not allowed for security.", dir)
			}
			up := filepath.Dir(dir)
			if up == dir {
				break
			}
			dir = up
		}
	}
	return nil
}
