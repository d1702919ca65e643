package gc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// ProcessRoots finds the store paths that running processes use: as program,
// working directory, open or mapped file, in their environment, or mounted by
// themselves in their namespace. The paths need not be valid.
//
// In whatever mount namespace a process is, the kernel tells a path from the root
// of that namespace. The store directory is looked for at its place, at the directories
// of also, and wherever the mount tables of processes say that any of these is, too:
// a container may have it elsewhere.
//
// What may not be read, another user's process, is passed over; it is told how many
// there are.
func ProcessRoots(ctx context.Context, procDir string, dir storepath.Dir, also ...string) (store.Roots, error) {
	fail := func(err error) error { return fmt.Errorf("looking for running processes: %w", err) }
	pids, err := processes(procDir)
	if err != nil {
		return nil, fail(err)
	}
	s := &procScan{proc: procDir, roots: store.Roots{}, places: newPlaces(procDir, append([]string{string(dir)}, also...))}
	// Which places there are must be known before anything is looked for.
	if err := s.each(ctx, pids, s.lookAround); err != nil {
		return nil, fail(err)
	}
	if err := s.each(ctx, pids, s.process); err != nil {
		return nil, fail(err)
	}
	for _, name := range []string{"sys/kernel/modprobe", "sys/kernel/fbsplash", "sys/kernel/poweroff_cmd"} {
		s.text(filepath.Join(procDir, name), new(scratch))
	}
	if n := s.hidden.Load(); n > 0 {
		activity.Logf(ctx, activity.Talkative, "%d processes of others could not be looked at; what only they use is not kept for them", n)
	}
	return s.roots, nil
}

// processes lists those that there are.
func processes(procDir string) (pids []string, err error) {
	d, err := os.Open(procDir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }()
	err = readDirents(int(d.Fd()), nil, func(e dirent) error {
		if name := string(e.name); strings.Trim(name, "0123456789") == "" {
			pids = append(pids, name)
		}
		return nil
	})
	return pids, err
}

// procScan looks at processes, several at once.
type procScan struct {
	proc   string
	places *places
	hidden atomic.Int64

	mu    sync.Mutex
	roots store.Roots
}

// scratch is memory that one goroutine uses again and again.
type scratch struct {
	link    [unix.PathMax]byte
	dirents []byte
	text    []byte
}

// slowProcess is after how long it is told that the kernel has not answered yet: it
// waits for a process that is stuck in it.
const slowProcess = 10 * time.Second

// each calls look for every process.
func (s *procScan) each(ctx context.Context, pids []string, look func(pid string, sc *scratch) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(len(pids), 2*runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			sc := &scratch{dirents: make([]byte, direntBuffer)}
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(pids) {
					return
				}
				slow := time.AfterFunc(slowProcess, func() {
					activity.Logf(ctx, activity.Info, "waiting for the kernel to tell what process %s uses...", pids[i])
				})
				if err := look(pids[i], sc); err != nil {
					cancel(err)
				}
				slow.Stop()
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// lookAround finds out where a process sees the store directory.
func (s *procScan) lookAround(pid string, sc *scratch) error {
	proc := filepath.Join(s.proc, pid)
	ns, ok := readLink(unix.AT_FDCWD, proc+"/ns/mnt", sc)
	if !ok {
		return nil // see process
	}
	group := string(ns)
	root, ok := readLink(unix.AT_FDCWD, proc+"/root", sc)
	if !ok {
		return nil
	}
	mounted, err := s.places.learn(proc+"/mountinfo", group, string(root))
	for _, p := range mounted {
		s.add(p, proc+"/mountinfo")
	}
	return err
}

func (s *procScan) process(pid string, sc *scratch) error {
	proc := filepath.Join(s.proc, pid)
	for _, name := range []string{"/exe", "/cwd", "/root"} {
		s.linkAt(unix.AT_FDCWD, proc+name, proc+name, sc)
	}
	fd, err := openDir(unix.AT_FDCWD, proc+"/fd", 0)
	switch {
	case errors.Is(err, fs.ErrPermission):
		s.hidden.Add(1)
		return nil
	case gone(err):
		return nil
	case err != nil:
		return &os.PathError{Op: "open", Path: proc + "/fd", Err: err}
	}
	err = readDirents(fd, sc.dirents, func(e dirent) error {
		s.linkAt(fd, string(e.name), proc+"/fd/", sc)
		return nil
	})
	_ = unix.Close(fd)
	if err != nil && !gone(err) {
		return &os.PathError{Op: "list", Path: proc + "/fd", Err: err}
	}
	s.maps(proc+"/maps", sc)
	s.text(proc+"/environ", sc)
	return nil
}

// readLink reads a link of /proc. The text is gone with the next.
func readLink(dirfd int, name string, sc *scratch) ([]byte, bool) {
	n, err := unix.Readlinkat(dirfd, name, sc.link[:])
	return sc.link[:max(n, 0)], err == nil
}

// linkAt takes the target of a link of /proc. from is its name, or ends with a slash and
// wants the name after it.
func (s *procScan) linkAt(dirfd int, name, from string, sc *scratch) {
	target, ok := readLink(dirfd, name, sc)
	if !ok {
		return
	}
	if p, ok := s.places.object(target); ok {
		if strings.HasSuffix(from, "/") {
			from += name
		}
		s.add(p, from)
	}
}

// maps takes the files that a process has mapped.
func (s *procScan) maps(file string, sc *scratch) {
	for line := range lines(sc.read(file)) {
		if p, ok := s.places.mapped(line); ok {
			s.add(p, file)
		}
	}
}

// text takes every store path that stands anywhere in a file.
func (s *procScan) text(file string, sc *scratch) {
	for p := range s.places.mentions(sc.read(file)) {
		s.add(p, file)
	}
}

// read gives what is in a file, nothing if it ended or is not ours to read. It is gone
// with the next.
func (sc *scratch) read(file string) []byte {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer func() { _ = unix.Close(fd) }()
	if sc.text == nil {
		sc.text = make([]byte, 64<<10)
	}
	for n := 0; ; {
		if n == len(sc.text) {
			sc.text = append(sc.text, make([]byte, len(sc.text))...)
		}
		k, err := unix.Read(fd, sc.text[n:])
		switch {
		case err == unix.EINTR:
		case err != nil || k == 0:
			return sc.text[:n]
		default:
			n += k
		}
	}
}

func (s *procScan) add(p storepath.Path, from string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, known := range s.roots[p] {
		if known == from {
			return
		}
	}
	s.roots[p] = append(s.roots[p], from)
}

// gone tells that a process ended meanwhile, or is none of our business.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ESRCH)
}

// isNowhere tells that nothing can be at a path, whatever anybody does: it goes round in circles, or is
// longer than paths are. Anybody may make a link to one.
func isNowhere(err error) bool {
	return errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENAMETOOLONG)
}

func isNotDir(err error) bool  { return errors.Is(err, unix.ENOTDIR) }
func isNotLink(err error) bool { return errors.Is(err, unix.EINVAL) }
