package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/mount"
	"github.com/strata-nix/strata/overlayfs"
)

// Process names one process of one boot for good: numbers of processes are used
// again, together with the start time they are not.
type Process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot, field 22 of /proc/PID/stat
	Boot  string `json:"boot-id"`
	// Namespace is the PID namespace that PID is of.
	Namespace uint64 `json:"pid-namespace"`
}

// self describes this process.
func self() (Process, error) {
	boot, err := mount.BootID()
	if err != nil {
		return Process{}, err
	}
	start, err := startTime(os.Getpid())
	if err != nil {
		return Process{}, err
	}
	ns, err := pidNamespace()
	return Process{PID: os.Getpid(), Start: start, Boot: boot, Namespace: ns}, err
}

func pidNamespace() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: "/proc/self/ns/pid", Err: err}
	}
	return st.Ino, nil
}

// startTime reads when a process started.
// Source: proc_pid_stat(5).
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is the name in parentheses, in which anything may stand.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields after the name", pid, len(fields))
	}
	if fields[0][0] == 'Z' || fields[0][0] == 'X' {
		return 0, os.ErrProcessDone
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

// errOtherNamespace: a process number that means nothing to us.
var errOtherNamespace = errors.New("it runs in another PID namespace")

// Alive tells whether the process runs. The error says that nobody can tell.
func (p Process) Alive() (bool, error) {
	boot, err := mount.BootID()
	if err != nil {
		return false, err
	}
	if p.Boot != boot || p.PID <= 0 {
		return false, nil
	}
	ns, err := pidNamespace()
	if err != nil {
		return false, err
	}
	if ns != p.Namespace {
		return false, errOtherNamespace
	}
	start, err := startTime(p.PID)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrProcessDone) {
		return false, nil
	}
	return start == p.Start, err
}

// uptime is for how long the process has run; 0 when that cannot be told.
func (p Process) uptime() time.Duration {
	// USER_HZ, the unit of /proc, is 100 on every architecture that Go runs on.
	const tick = 10 * time.Millisecond
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return 0
	}
	return max(time.Duration(now.Nano())-time.Duration(p.Start)*tick, 0) //nolint:gosec // years in ticks
}

// end sends a signal to this very process and waits until it has ended. It
// returns nil if it was not there any more, and the context's error if it still
// is when that ends.
func (p Process) end(ctx context.Context, sig unix.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	// Whatever the descriptor names now it will always name.
	if alive, err := p.Alive(); err != nil || !alive {
		return err
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("process %d does not end: %w", p.PID, context.Cause(ctx))
		}
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // a descriptor
		n, err := unix.Poll(poll, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for process %d: %w", p.PID, err)
		}
		if n > 0 {
			return nil
		}
	}
}

// inMountNamespace lists some processes of the mount namespace of a mount, if that is
// still there.
func inMountNamespace(r overlayfs.Record) []string {
	want := fmt.Sprintf("mnt:[%d]", r.Namespace)
	return someProcesses(func(proc string) bool {
		link, err := os.Readlink(proc + "/ns/mnt")
		return err == nil && link == want && hasMount(proc, r)
	})
}

// hasMount tells whether a process sees a mount, or may. The numbers of namespaces
// and of mounts are given anew soon after one has ended, and a bind has the device of
// what it shows, so the place must be the same too.
func hasMount(proc string, r overlayfs.Record) bool {
	table, err := os.Open(proc + "/mountinfo")
	if err != nil {
		return !gone(err)
	}
	defer table.Close()
	for e, err := range mount.Entries(table) {
		if err != nil {
			return !gone(err)
		}
		if e.ID == r.MountID && e.Device.String() == r.Device && e.Target == r.Target {
			return true
		}
	}
	return false
}

// gone tells whether the error is what /proc says of a process that has ended.
func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL)
}

// someProcesses lists the first of those that match tells, by their directories
// in /proc.
func someProcesses(match func(proc string) bool) (out []string) {
	const most = 5
	proc, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1)
	for _, name := range names {
		dir := "/proc/" + name
		if _, err := strconv.Atoi(name); err != nil || !match(dir) {
			continue
		}
		comm, _ := os.ReadFile(dir + "/comm")
		if out = append(out, fmt.Sprintf("process %s (%s)", name, strings.TrimSpace(string(comm)))); len(out) == most {
			break
		}
	}
	return out
}
