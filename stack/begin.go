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
	path := filepath.Join(dir, lockFile)
	lock, err := flock.Open(path)
	if err != nil {
		return err
	}
	if ok, err := lock.Try(flock.Exclusive); err != nil || !ok {
		text, readErr := os.ReadFile(path)
		_ = lock.Close()
		if err != nil {
			return err
		}
		e := &InUseError{Upper: dir, Why: "a stack is up with it"}
		if pid := strings.TrimSpace(string(text)); readErr == nil && pid != "" {
			e.By = []string{"process " + pid}
			e.Why = "it is served"
		}
		return e
	}
	f := lock.File()
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0) // for the message above only
	}
	s.lock = lock
	return nil
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
