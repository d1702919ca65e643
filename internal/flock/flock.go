// Package flock has the file locks by which the processes that share a Nix
// store keep out of each other's way: flock(2) on files at agreed places.
//
// Locks belong to an open file, so two of one process exclude each other like
// those of two processes.
package flock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Mode is how a file is locked.
type Mode int

// The modes.
const (
	Shared    Mode = unix.LOCK_SH
	Exclusive Mode = unix.LOCK_EX
)

// Lock is a locked file. It is held until Close.
type Lock struct{ f *os.File }

// Open opens a lock file, made if it is not there, and locks nothing yet.
func Open(path string) (*Lock, error) {
	// Not by os.OpenFile, which would offer it to the poller first: each object that
	// is added has a lock file.
	for {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("opening lock file: %w", &os.PathError{Op: "open", Path: path, Err: err})
		}
		return &Lock{f: os.NewFile(uintptr(fd), path)}, nil
	}
}

// OpenThere opens a lock file that is there, also where nothing can be written.
func OpenThere(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening lock file: %w", err)
	}
	return &Lock{f: f}, nil
}

// OpenDir opens a directory to be locked itself.
func OpenDir(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("opening directory to lock: %w", err)
	}
	return &Lock{f: f}, nil
}

// Try locks without waiting, and tells whether it could.
func (l *Lock) Try(m Mode) (bool, error) {
	for {
		err := unix.Flock(int(l.f.Fd()), int(m)|unix.LOCK_NB)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, unix.EWOULDBLOCK):
			return false, nil
		case !errors.Is(err, unix.EINTR):
			return false, fmt.Errorf("locking %s: %w", l.f.Name(), err)
		}
	}
}

// Lock waits for the lock, or for the end of ctx. waiting, if not nil, is called
// once when it turns out that somebody else has it.
func (l *Lock) Lock(ctx context.Context, m Mode, waiting func()) error {
	// A blocking flock cannot be canceled, so ask again and again, soon at first.
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		ok, err := l.Try(m)
		if ok || err != nil {
			return err
		}
		if waiting != nil {
			waiting()
			waiting = nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the lock %s: %w", l.f.Name(), context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// Unlock gives the lock up and keeps the file open.
func (l *Lock) Unlock() error {
	if err := unix.Flock(int(l.f.Fd()), unix.LOCK_UN); err != nil {
		return fmt.Errorf("unlocking %s: %w", l.f.Name(), err)
	}
	return nil
}

// File is the open file.
func (l *Lock) File() *os.File { return l.f }

// Close gives the lock up.
func (l *Lock) Close() error { return l.f.Close() }

// Marked tells whether somebody deleted the file under the lock, which Nix does
// by unlinking it and writing a byte into it. On a full disk there is no byte.
func (l *Lock) Marked() (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(l.f.Fd()), &st); err != nil {
		return false, &os.PathError{Op: "fstat", Path: l.f.Name(), Err: err}
	}
	return st.Size != 0 || st.Nlink == 0, nil
}

// InPlace tells whether the name that it was opened by is still that of the file.
func (l *Lock) InPlace() (bool, error) {
	now, err := os.Lstat(l.f.Name())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	mine, err := l.f.Stat()
	return err == nil && os.SameFile(now, mine), err
}

// Delete unlinks the file and marks it, so that whoever waits for the lock sees
// that it is worth nothing any more.
func (l *Lock) Delete() {
	_ = os.Remove(l.f.Name())          // to leave the file lying is harmless
	_, _ = l.f.WriteAt([]byte("d"), 0) // likewise
}

// OpenLive opens and locks path exclusively, again and again until the file that
// is locked is one that nobody has deleted.
func OpenLive(ctx context.Context, path string, waiting func()) (*Lock, error) {
	for {
		l, err := Open(path)
		if err != nil {
			return nil, err
		}
		if err := l.Lock(ctx, Exclusive, waiting); err != nil {
			_ = l.Close()
			return nil, err
		}
		stale, err := l.Marked()
		if err == nil && !stale {
			return l, nil
		}
		_ = l.Close()
		if err != nil {
			return nil, fmt.Errorf("looking at the lock %s: %w", path, err)
		}
	}
}
