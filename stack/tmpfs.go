package stack

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/mount"
	"github.com/strata-nix/strata/overlayfs"
)

// An upper that is thrown away is a tmpfs at [Upper.Dir]/tmpfs, the first mount of
// its stack and the last to go. What others need to find the stack stays in
// Upper.Dir: run.json, the lock, the control socket.
const (
	roleTmpfs = "tmpfs"
	tmpfsDir  = "tmpfs"
	// DefaultTmpfs is the size of a throwaway upper whose size nobody gave.
	DefaultTmpfs = "50%"
	// minTmpfs holds an empty database with its log.
	minTmpfs = 1 << 20
)

// A tmpfs bounds the number of its files as well, by the memory of the machine
// unless told. A file with contents has a page; directories, links and marks of
// OverlayFS have none, and cost the kernel about a quarter of one.
const (
	bytesPerInode = 2048
	minInodes     = 1 << 16
)

// ParseTmpfs reads the size of a throwaway upper: a number of bytes, which may
// be followed by k, m, g or t (powers of 1024), or a percentage of the machine's
// memory.
func ParseTmpfs(text string) (uint64, error) {
	fail := func(why string) (uint64, error) {
		return 0, fmt.Errorf("'%.40s' %s", text, why)
	}
	number, unit := text, uint64(1)
	if n := len(text); n > 0 {
		switch shift := strings.IndexByte("kmgt", text[n-1]|0x20); {
		case shift >= 0:
			number, unit = text[:n-1], 1<<(10*(shift+1))
		case text[n-1] == '%':
			memory, err := memorySize()
			if err != nil {
				return 0, err
			}
			number, unit = text[:n-1], memory/100
		}
	}
	v, err := strconv.ParseUint(number, 10, 64)
	switch {
	case err != nil:
		return fail("is not a size such as 4G, or 50% of the memory")
	case unit == 0 || v > math.MaxInt64/unit:
		return fail("is too large")
	case v*unit < minTmpfs:
		return fail(fmt.Sprintf("is too small for a store: at least %d bytes are needed", minTmpfs))
	}
	return v * unit, nil
}

func memorySize() (uint64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("size of the memory: %w", err)
	}
	return info.Totalram * uint64(info.Unit), nil
}

// throwaway tells whether a path is what an upper in memory has its things in.
func throwaway(upperDir, path string) bool {
	return strings.HasPrefix(path, filepath.Join(upperDir, tmpfsDir)+"/")
}

// UpperDir is the directory by which the stack is found, see [FindUpper]: Upper.Dir, or
// for an upper in memory one that is named after the stack in [RuntimeDir]. Before
// the configuration is resolved it may be relative.
func (c *Config) UpperDir() string {
	if c.Upper.Dir != "" || c.Upper.Tmpfs == 0 {
		return c.Upper.Dir
	}
	name := c.Name
	if name == "" {
		name = roleTmpfs
	}
	return filepath.Join(RuntimeDir(), "uppers", name)
}

// tmpfs checks what is said of a throwaway upper and places what it holds.
func (r *resolver) tmpfs(u Upper) Upper {
	if u.Tmpfs == 0 {
		return u
	}
	in := filepath.Join(u.Dir, tmpfsDir)
	for _, p := range []struct {
		key, name string
		path      *string
	}{{"layer", "layer", &u.Layer}, {"work", "work", &u.Work}, {"state", "state", &u.State}} {
		place := filepath.Join(in, p.name)
		if *p.path != "" && *p.path != place {
			r.fail("upper."+p.key, "goes with the upper, which is a tmpfs, and cannot be at another place")
		}
		*p.path = place
	}
	if u.Log == "" {
		u.Log = filepath.Join(in, "log")
	}
	return u
}

// throwAway takes down what a killed process left of a throwaway upper. That comes
// before the lowers are looked at, since its state may cover that of a lower and is
// nothing without the process.
func (s *Stack) throwAway(ctx context.Context) (err error) {
	if s.Config.Upper.Tmpfs == 0 {
		return nil
	}
	if _, err := readRun(runPath(s.Config.Upper.Dir)); errors.Is(err, ErrNotUp) {
		return nil
	}
	if err := s.lockUpper(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.lock.Close()) }()
	if err := s.begin(); err != nil {
		return err
	}
	if err := s.dropOld(ctx); err != nil {
		return err
	}
	return s.run.leave()
}

// mountTmpfs makes an empty tmpfs for the upper. One of an earlier run goes with all
// that was in it.
func (s *Stack) mountTmpfs(ctx context.Context) error {
	u := s.Config.Upper
	if u.Tmpfs == 0 {
		return nil
	}
	return s.mountAll(ctx, []step{tmpfsStep(filepath.Join(u.Dir, tmpfsDir), u.Tmpfs)})
}

// checkOwner refuses the usual place for uppers without one if it is somebody
// else's, who could put other things there than ours. For a user without a session it is
// in /tmp.
func checkOwner(dir string) error {
	for top := RuntimeDir(); dir == top || strings.HasPrefix(dir, top+"/"); dir = filepath.Dir(dir) {
		st, err := os.Lstat(dir)
		if err != nil {
			return err
		}
		if owner, ok := st.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Geteuid() {
			return fmt.Errorf("'%s' belongs to another user; choose another directory with 'upper.dir'", dir)
		}
	}
	return nil
}

func tmpfsStep(target string, size uint64) step {
	return step{
		role: roleTmpfs, target: target, source: fmt.Sprintf("tmpfs of %d bytes", size),
		identify: func(adopted bool) (string, error) {
			if adopted {
				return "", errors.New("what a throwaway upper had is thrown away")
			}
			return "", nil
		},
		attach: func(ctx context.Context, before func(overlayfs.Record) error) error {
			if err := attachTmpfs(ctx, target, size, before); err != nil {
				return fmt.Errorf("tmpfs at '%s': %w", target, err)
			}
			return nil
		},
	}
}

func attachTmpfs(ctx context.Context, target string, size uint64, before func(overlayfs.Record) error) error {
	on, err := unix.Open(target, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(on)
	d, err := createTmpfs(size)
	if err != nil {
		return err
	}
	defer d.Close()
	id, err := d.ID()
	if err != nil {
		return err
	}
	at, err := mount.Resolve(target)
	if err != nil {
		return err
	}
	rec, err := mount.NewRecord(at, "tmpfs", id)
	if err != nil {
		return err
	}
	if err := before(rec); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return d.Attach(on)
}

// createTmpfs makes a tmpfs that is not attached yet.
func createTmpfs(size uint64) (*mount.Detached, error) {
	c, err := mount.Open("tmpfs")
	if err != nil {
		return nil, err
	}
	defer c.Close()
	for _, p := range [][2]string{
		{"source", "strata"}, // what df shows
		{"mode", "755"},
		{"size", strconv.FormatUint(size, 10)},
		{"nr_inodes", strconv.FormatUint(max(size/bytesPerInode, minInodes), 10)},
	} {
		if err := c.SetString(p[0], p[1]); err != nil {
			return nil, err
		}
	}
	if err := c.Create(); err != nil {
		return nil, err
	}
	return c.Mount(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV)
}
