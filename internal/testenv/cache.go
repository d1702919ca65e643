package testenv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// CacheDir is where things that take long to make are kept between runs:
// $STRATA_TEST_CACHE, or else strata/ in the user's cache directory.
// Everything in it can be deleted at any time between runs.
func CacheDir() (string, error) {
	if dir := os.Getenv("STRATA_TEST_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no place for the test cache (set STRATA_TEST_CACHE): %w", err)
	}
	return filepath.Join(dir, "strata"), nil
}

// A failedError is an earlier, recent failure to build a cache entry.
type failedError struct {
	entry, msg string
	at         time.Time
}

func (e *failedError) Error() string {
	return fmt.Sprintf("%s could not be made at %s: %s", e.entry, e.at.Format(time.TimeOnly), e.msg)
}

// rememberFailure is how long a failure to build an entry keeps the next test
// process from trying again, which may well take minutes without a network.
const rememberFailure = 10 * time.Minute

// Cached returns the directory of a cache entry and has it built first if it is
// not there: build fills an empty directory, which then gets another name. The
// name of the entry must change with what is in it. Concurrent callers wait for one
// build. What is there must not be changed.
func Cached(ctx context.Context, name string, build func(ctx context.Context, dir string) error) (string, error) {
	return cached(ctx, name, false, build)
}

// cached returns the directory of a cache entry and has it built first if it
// is not there. build fills an empty directory that nobody else looks at; it
// becomes the entry by a rename once build has succeeded. Concurrent callers,
// of this and other processes, wait for one build. With retry a remembered
// failure does not count.
func cached(ctx context.Context, name string, retry bool, build func(ctx context.Context, dir string) error) (string, error) {
	root, err := CacheDir()
	if err != nil {
		return "", err
	}
	entry := filepath.Join(root, name)
	if isDir(entry) {
		return entry, nil
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", fmt.Errorf("test cache: %w", err)
	}
	unlock, err := lockFile(ctx, entry+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if isDir(entry) {
		return entry, nil
	}
	failed := entry + ".failed"
	if !retry {
		if err := recallFailure(name, failed); err != nil {
			return "", err
		}
	}
	if err := buildEntry(ctx, entry, build); err != nil {
		if ctx.Err() == nil {
			os.WriteFile(failed, []byte(err.Error()), 0o644) // only saves time; may fail
		}
		return "", fmt.Errorf("%s: %w", name, err)
	}
	os.Remove(failed)
	return entry, nil
}

func buildEntry(ctx context.Context, entry string, build func(ctx context.Context, dir string) error) error {
	const mark = ".part-"
	// Under the lock, so these were left by builds that were killed.
	old, err := filepath.Glob(entry + mark + "*")
	if err != nil {
		return err
	}
	for _, dir := range old {
		if err := RemoveAll(dir); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp(filepath.Dir(entry), filepath.Base(entry)+mark)
	if err != nil {
		return err
	}
	defer RemoveAll(dir) // is gone by then if all went well
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	if err := build(ctx, dir); err != nil {
		return err
	}
	return os.Rename(dir, entry)
}

func recallFailure(name, file string) error {
	fi, err := os.Stat(file)
	if err != nil || time.Since(fi.ModTime()) > rememberFailure {
		return nil
	}
	msg, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	return &failedError{entry: name, msg: string(msg), at: fi.ModTime()}
}

// lockFile takes an exclusive lock and returns what gives it back. The file
// stays: removing it would let two holders lock two files of one name.
func lockFile(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, fmt.Errorf("test cache: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for the lock %s: %w", name, context.Cause(ctx))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func isDir(name string) bool {
	fi, err := os.Lstat(name)
	return err == nil && fi.IsDir()
}

// moduleRoot finds the directory of this module's go.mod above the working
// directory, which for a test is its package.
func moduleRoot() (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		_, err := os.Stat(filepath.Join(dir, "go.mod"))
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no go.mod at or above %s", wd)
		}
	}
}
