package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Cgroup is the control group (version 2) of one build.
type Cgroup struct {
	path string
	dir  *os.File
	note string // the file that remembers it for the next build of the user; may be empty
}

var cgroupCount atomic.Uint64

// NewCgroup makes one below the group of this program. What a build of the same
// user left there when its daemon crashed is killed and removed first: the file
// <stateDir>/cgroups/<uid> remembers it, as upstream's. user may be nil.
func NewCgroup(ctx context.Context, stateDir string, user *User) (*Cgroup, error) {
	parent, err := ownCgroup()
	if err != nil {
		return nil, err
	}
	c := new(Cgroup)
	if user == nil {
		c.path = filepath.Join(parent, fmt.Sprintf("nix-build-pid-%d-%d", os.Getpid(), cgroupCount.Add(1)-1))
	} else {
		c.path = filepath.Join(parent, fmt.Sprintf("nix-build-uid-%d", user.UID))
		if err := c.remember(ctx, stateDir, user.UID); err != nil {
			return nil, err
		}
	}
	if err := os.Mkdir(c.path, 0o755); err != nil {
		return nil, fmt.Errorf("make a control group for the build: %w%s", err, delegationAdvice(err))
	}
	if c.dir, err = os.OpenFile(c.path, unix.O_PATH|unix.O_DIRECTORY, 0); err == nil && user != nil {
		err = c.handOver(user)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// delegationAdvice is what to do when a group cannot be made.
func delegationAdvice(err error) string {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		return " (the group of this process must be delegated to it: Delegate=yes in its systemd unit, or systemd-run --user --scope -p Delegate=yes)"
	}
	return ""
}

// remember notes the group, after what was noted before has been removed.
func (c *Cgroup) remember(ctx context.Context, stateDir string, uid uint32) error {
	dir := filepath.Join(stateDir, "cgroups")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	c.note = filepath.Join(dir, strconv.FormatUint(uint64(uid), 10))
	old, err := os.ReadFile(c.note)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	stale := []string{c.path}
	if p := strings.TrimSpace(string(old)); p != "" && p != c.path {
		stale = append(stale, p)
	}
	for _, p := range stale {
		if err := removeStale(ctx, p); err != nil {
			return fmt.Errorf("remove the control group of an earlier build: %w", err)
		}
	}
	return os.WriteFile(c.note, []byte(c.path), 0o644)
}

// removeStale removes a group that may be there. Only what is named as those of
// builds are, in a file system of control groups, is believed to be one.
func removeStale(ctx context.Context, path string) error {
	var st unix.Statfs_t
	err := unix.Statfs(path, &st)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	if st.Type != unix.CGROUP2_SUPER_MAGIC || !strings.HasPrefix(filepath.Base(path), "nix-build-") {
		return fmt.Errorf("%s is not one", path)
	}
	old := &Cgroup{path: path}
	return old.destroy(ctx)
}

// handOver lets the builder make groups of his own in it.
func (c *Cgroup) handOver(user *User) error {
	for _, name := range []string{"", "cgroup.procs", "cgroup.threads"} {
		if err := os.Chown(filepath.Join(c.path, name), int(user.UID), int(user.GID)); err != nil {
			return err
		}
	}
	return nil
}

// Close kills everything in the group and removes it. It may be called more than once.
func (c *Cgroup) Close() error {
	if c.dir != nil {
		c.dir.Close()
	}
	if err := c.destroy(context.Background()); err != nil {
		return err
	}
	if c.note != "" {
		if err := os.Remove(c.note); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (c *Cgroup) destroy(ctx context.Context) error {
	if _, err := os.Stat(c.path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := c.empty(ctx); err != nil {
		return err
	}
	return c.removeTree(c.path)
}

// removeTree removes empty groups, the innermost first.
func (c *Cgroup) removeTree(path string) error {
	for _, sub := range subgroups(path) {
		if err := c.removeTree(sub); err != nil {
			return err
		}
	}
	// rmdir is for groups; os.Remove would try to unlink first.
	if err := unix.Rmdir(path); err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "rmdir", Path: path, Err: err}
	}
	return nil
}

func subgroups(path string) []string {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil
	}
	var subs []string
	for _, e := range entries {
		if e.IsDir() {
			subs = append(subs, filepath.Join(path, e.Name()))
		}
	}
	return subs
}

// kill kills everything in the group and in groups below it, at one blow from
// Linux 5.14 on.
func (c *Cgroup) kill() error {
	f, err := os.OpenFile(filepath.Join(c.path, "cgroup.kill"), os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return killMembers(c.path)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString("1")
	return err
}

// killMembers is kill for kernels that do not have it, as far as it goes.
func killMembers(path string) error {
	for _, sub := range subgroups(path) {
		if err := killMembers(sub); err != nil {
			return err
		}
	}
	b, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
	if err != nil {
		return err
	}
	for field := range bytes.FieldsSeq(b) {
		if pid, err := strconv.Atoi(string(field)); err == nil && pid > 1 {
			_ = unix.Kill(pid, unix.SIGKILL) // it may have died
		}
	}
	return nil
}

// patience is how long the kernel may take to bury what was killed.
const patience = 30 * time.Second

// empty kills until nothing is left in the group.
func (c *Cgroup) empty(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for pause := 100 * time.Microsecond; ; pause = min(2*pause, 50*time.Millisecond) {
		if err := c.kill(); err != nil {
			return fmt.Errorf("kill the control group %s: %w", c.path, err)
		}
		populated, err := c.populated()
		if err != nil || !populated {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the control group %s does not become empty: %w", c.path, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// populated tells whether there is a process in the group or below it.
func (c *Cgroup) populated() (bool, error) {
	n, err := c.number("cgroup.events", "populated")
	return n != 0, err
}

// cpu is what all processes that were ever in the group have used.
func (c *Cgroup) cpu() (user, system time.Duration, err error) {
	u, err := c.number("cpu.stat", "user_usec")
	if err != nil {
		return 0, 0, err
	}
	s, err := c.number("cpu.stat", "system_usec")
	return time.Duration(u) * time.Microsecond, time.Duration(s) * time.Microsecond, err
}

// number reads one of the values of a file with "key value" lines.
func (c *Cgroup) number(file, key string) (uint64, error) {
	path := filepath.Join(c.path, file)
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if k, v, _ := strings.Cut(strings.TrimSpace(line), " "); k == key {
			n, err := strconv.ParseUint(v, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %s is %q", path, key, v)
			}
			return n, nil
		}
	}
	return 0, fmt.Errorf("%s does not tell %s", path, key)
}

// ownCgroup is the directory of the group that this program is in.
func ownCgroup() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	return findCgroup(string(mounts), string(own))
}

// findCgroup finds it from the mount table and from the list of the groups.
func findCgroup(mounts, own string) (string, error) {
	for line := range strings.Lines(mounts) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[2] != "cgroup2" {
			continue
		}
		for line := range strings.Lines(own) {
			if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
				return filepath.Join(fields[1], path), nil
			}
		}
		return "", errors.New("this process is in no control group of version 2")
	}
	return "", errors.New("no file system of control groups of version 2 (cgroup2) is mounted")
}
