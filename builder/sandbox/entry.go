package sandbox

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// enter is the last program before the builder, inside the sandbox: it takes what
// is left of the surroundings of a daemon from the process, waits for the word, and
// becomes the builder. It does not return.
func enter() {
	// Personality, filters and the signal of a dying parent are a thread's, and so
	// is the execution.
	runtime.LockOSThread()
	failed := becomeBuilder()
	_, _ = unix.Write(entryStatus, packUp(&event{kind: builderFailed, report: *failed})) // if nobody hears it, nobody needs it
	os.Exit(125)
}

// step is something to do, and what to call it when it fails.
type step struct {
	name string
	do   func() error
}

// steps are done up to the first that fails.
type steps []step

func (s steps) do() *report {
	for _, step := range s {
		if err := step.do(); err != nil {
			return newReport(step.name, err)
		}
	}
	return nil
}

// becomeBuilder returns why it did not.
func becomeBuilder() *report {
	var s builderSpec
	if r := (steps{
		{"read what to run", func() error { return unsealed(entrySpecFD, &s) }},
		{"keep files from the builder", closeOnExec},
		{"hear from the keeper", awaitGo},
		{"connect the output", connectOutput},
		{"reset signals and limits", resetProcess},
		{"set the personality", s.personality},
		{"mount /sys", s.mountSys},
		{"give up privileges", s.restrict},
		{"enter the working directory", s.enterDir},
		{"die with the keeper", dieWithKeeper},
	}).do(); r != nil {
		return r
	}
	r := newReport(s.Path, syscall.Exec(s.Path, s.Args, s.Env))
	r.Exec = true
	return r
}

// closeOnExec marks all files but the standard ones.
func closeOnExec() error {
	const first = 3
	err := unix.CloseRange(first, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC)
	if err == nil || !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= first {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// awaitGo tells that the sandbox stands and waits until it is filled.
func awaitGo() error {
	if _, err := unix.Write(entryStatus, packUp(&event{kind: entryReady})); err != nil {
		return err
	}
	var b [1]byte
	for {
		n, err := unix.Read(entryGo, b[:])
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n == 0:
			os.Exit(125) // the keeper is gone, or wants no builder any more
		default:
			return nil
		}
	}
}

func connectOutput() error {
	for _, fd := range []int{1, 2} {
		if err := unix.Dup3(entryOutput, fd, 0); err != nil {
			return err
		}
	}
	return nil
}

// resetProcess makes the process a session of its own without a terminal, with
// default signals, no core dumps and the usual umask.
func resetProcess() error {
	if _, err := unix.Setsid(); err != nil && !errors.Is(err, unix.EPERM) { // EPERM: it is one already
		return fmt.Errorf("setsid: %w", err)
	}
	for n := unix.SIGHUP; n <= lastSignal; n++ {
		resetSignal(n)
	}
	unix.Umask(0o022)
	var core unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil {
		return fmt.Errorf("getrlimit: %w", err)
	}
	core.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &core); err != nil {
		return fmt.Errorf("setrlimit: %w", err)
	}
	return nil
}

// lastSignal is the highest number of a signal, on all but MIPS. Those without a
// meaning of their own may be ignored too, by what started the daemon.
const lastSignal = unix.Signal(64)

// resetSignal makes a signal that is ignored do again what it does by default, for
// the builder as well. Those that are caught will, when he is executed; and
// to catch one for a moment would start a thread.
func resetSignal(n unix.Signal) {
	var action, none [4]uintptr // struct sigaction, whose first word is the handler
	const ignore, setSize = 1, 8
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(n), 0, uintptr(unsafe.Pointer(&action)), setSize, 0, 0)
	if errno == 0 && action[0] == ignore {
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(n), uintptr(unsafe.Pointer(&none)), 0, setSize, 0, 0)
	}
}

// mountSys gives the root of a uid range the /sys of its network namespace in
// place of the machine's, if the kernel lets it.
func (s *builderSpec) mountSys() error {
	if s.Range {
		_ = unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	}
	return nil
}

// restrict is for all that the builder starts. The order matters: the filter
// takes privilege unless new privileges are given up.
func (s *builderSpec) restrict() error {
	if !s.NewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("no_new_privs: %w", err)
		}
	}
	if err := scopeAbstractSockets(); err != nil && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("landlock: %w", err)
	}
	if s.Filter {
		if err := installFilter(); err != nil {
			return fmt.Errorf("load the system call filter: %w", err)
		}
	}
	return nil
}

func (s *builderSpec) enterDir() error {
	if err := unix.Chdir(s.Dir); err != nil {
		return &SetupError{Step: "enter " + s.Dir, Err: err}
	}
	return nil
}

func dieWithKeeper() error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return err
	}
	// If the keeper died before that it is noticed here. Its number would not do:
	// from another pid namespace it cannot be seen.
	fds := []unix.PollFd{{Fd: entryGo}}
	if _, err := unix.Poll(fds, 0); err != nil {
		return err
	}
	if fds[0].Revents&unix.POLLHUP != 0 {
		os.Exit(125)
	}
	return nil
}
