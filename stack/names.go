package stack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/userns"
)

// RuntimeEnv names the directory of the names of stacks, for those who do not
// want it at its usual place.
const RuntimeEnv = "STRATA_RUNTIME_DIR"

// systemRuntimeDir is that of root.
const systemRuntimeDir = "/run/strata"

// RuntimeDir is where the names of the stacks that are up are: links to their
// run.json. It is /run/strata for root, and else in the user's own directory for
// such things; that also for the root of a user namespace who is nobody outside of it.
func RuntimeDir() string {
	if dir := os.Getenv(RuntimeEnv); dir != "" {
		return dir
	}
	uid := os.Geteuid()
	outer := uid // of a user whom 'strata run' has given back his number
	if uid == 0 {
		outer = userns.OuterUID(uid)
	}
	if uid == 0 && (outer == 0 || unix.Faccessat(unix.AT_FDCWD, filepath.Dir(systemRuntimeDir), unix.W_OK, unix.AT_EACCESS) == nil) {
		return systemRuntimeDir
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "strata")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("strata-%d", outer))
}

func namePath(name string) string { return filepath.Join(RuntimeDir(), name+".json") }

// register gives the stack its name. It fails if a stack of that name is up that
// is another.
func register(r *Run) error {
	dir := RuntimeDir()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if other, err := readRun(namePath(r.Name)); err == nil && other.Dir != r.Dir {
		if up, _ := other.Up(); up {
			return fmt.Errorf("a stack with the name '%s' is up already, with the upper '%s'; give this one another name", r.Name, other.Dir)
		}
	}
	temp := filepath.Join(dir, fmt.Sprintf(".%s.%d", r.Name, os.Getpid()))
	_ = os.Remove(temp) // of an earlier process with our number
	if err := os.Symlink(runPath(r.Dir), temp); err != nil {
		return err
	}
	if err := os.Rename(temp, namePath(r.Name)); err != nil {
		_ = os.Remove(temp)
		return err
	}
	return nil
}

// unregister takes the name away, unless another stack has it by now.
func unregister(r *Run) error {
	path := namePath(r.Name)
	if to, err := os.Readlink(path); err != nil || to != runPath(r.Dir) {
		return nil //nolint:nilerr // not there, or not ours
	}
	return os.Remove(path)
}

// FindUpper gives the stack with this upper directory, up or left behind.
// [ErrNotUp] says that there is none.
func FindUpper(dir string) (*Run, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	r, err := readRun(runPath(dir))
	if errors.Is(err, ErrNotUp) {
		return nil, fmt.Errorf("the stack with the upper '%s' %w", dir, err)
	}
	if err == nil && r.Dir != dir {
		r.Dir = dir // it was moved while it was not up
	}
	return r, err
}

// Find gives the stack of this name. [ErrNotUp] says that there is none.
func Find(name string) (*Run, error) {
	if !validName(name) {
		return nil, fmt.Errorf("'%.80s' cannot be the name of a stack", name)
	}
	r, err := readRun(namePath(name))
	if errors.Is(err, ErrNotUp) && os.Getenv(RuntimeEnv) == "" {
		r, err = readRun(filepath.Join(systemRuntimeDir, name+".json")) // root's, which may have an owner
	}
	if errors.Is(err, ErrNotUp) {
		return nil, fmt.Errorf("stack '%s' %w", name, err)
	}
	return r, err
}

// List gives all stacks that have a name in [RuntimeDir], by name. What cannot be
// read is in the error, beside the others.
func List() ([]*Run, error) {
	entries, err := os.ReadDir(RuntimeDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var all []*Run
	for _, e := range entries {
		name, isName := strings.CutSuffix(e.Name(), ".json")
		if !isName || !validName(name) {
			continue
		}
		r, readErr := readRun(filepath.Join(RuntimeDir(), e.Name()))
		switch {
		case readErr == nil:
			all = append(all, r)
		case !errors.Is(readErr, ErrNotUp): // its upper was removed
			err = errors.Join(err, readErr)
		}
	}
	return all, err
}
