package stack

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/internal/mount"
	"github.com/strata-nix/strata/overlayfs"
)

// lockUpper makes sure that nobody else has the upper.
func (s *Stack) lockUpper() error {
	dir := s.Config.Upper.Dir
	if err := errors.Join(makeDir(dir), checkOwner(dir)); err != nil {
		return err
	}
	lock, err := flock.Open(filepath.Join(dir, lockFile))
	if err != nil {
		return err
	}
	if err := lockNow(lock, flock.Exclusive, dir); err != nil {
		return errors.Join(err, lock.Close())
	}
	f := lock.File()
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0) // for the message above only
	}
	s.lock = lock
	return nil
}

// lockNow takes the lock of an upper, unless somebody has it.
func lockNow(lock *flock.Lock, mode flock.Mode, dir string) error {
	ok, err := lock.Try(mode)
	if ok || err != nil {
		return err
	}
	e := &InUseError{Upper: dir, Why: "a stack is up with it"}
	text, err := os.ReadFile(filepath.Join(dir, lockFile))
	if pid := strings.TrimSpace(string(text)); err == nil && pid != "" {
		e.By = []string{"process " + pid}
		e.Why = "it is served"
	}
	return e
}

// begin reads what an earlier run left, and starts a new record.
func (s *Stack) begin() error {
	c := &s.Config
	me, err := self()
	if err != nil {
		return err
	}
	ns, err := mount.Namespace()
	if err != nil {
		return err
	}
	initial, err := mount.InitialUserNamespace()
	if err != nil {
		return err
	}
	s.run = &Run{
		Version: runVersion, Strata: s.parts.Version, Name: c.Name, Dir: c.Upper.Dir,
		StoreDir: string(c.StoreDir), Root: c.Root, Mount: c.Mount, Layer: c.Upper.Layer, State: c.Upper.State,
		Started: time.Now().UTC().Truncate(time.Millisecond), Process: me,
		MountNamespace: ns, Private: !initial,
	}
	old, err := readRun(runPath(c.Upper.Dir))
	if errors.Is(err, ErrNotUp) {
		return nil
	}
	if err != nil {
		return err
	}
	s.old = uncovered(old.Mounts)
	return s.checkDetached(old.Detached)
}

// checkDetached refuses an upper that is still mounted for somebody.
func (s *Stack) checkDetached(records []overlayfs.Record) error {
	for _, r := range records {
		if r.FSType != overlayfs.Type || throwaway(s.run.Dir, r.Upper) { // the next has another file system
			continue
		}
		by := usersOf(r)
		if len(by) == 0 {
			continue
		}
		s.run.Detached = append(s.run.Detached, r)
		return &InUseError{Upper: s.run.Dir, By: by, Why: "the mount of an earlier run, which was detached, still is used"}
	}
	return nil
}
