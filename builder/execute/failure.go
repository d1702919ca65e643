package execute

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// failure is a build that failed, which is a result. Its message is upstream's.
type failure struct {
	status store.BuildStatus
	msg    string
}

func (f *failure) Error() string { return f.msg }

func failf(status store.BuildStatus, format string, args ...any) *failure {
	return &failure{status: status, msg: fmt.Sprintf(format, args...)}
}

// Upstream's notes at the end of a message.
const diskFullNote = "\nnote: build failure may have been caused by lack of free disk space"

// builderFailed is the failure of a builder that did not exit with 0.
func (b *build) builderFailed(how string, diskFull bool) *failure {
	drv := b.dir.Print(b.job.DrvPath)
	var m strings.Builder
	fmt.Fprintf(&m, "Cannot build '%s'.\nReason: builder %s.", drv, how)
	m.WriteString(b.knownOutputs())
	if tail := b.lines.Tail(); len(tail) > 0 {
		fmt.Fprintf(&m, "\nLast %d log lines:\n", len(tail))
		for _, line := range tail {
			m.WriteString("> " + line + "\n")
		}
		command := "nix-store -l"
		if b.feature("nix-command") {
			command = "nix log"
		}
		fmt.Fprintf(&m, "For full logs, run:\n  %s %s", command, drv)
	}
	status := store.PermanentFailure
	if diskFull {
		m.WriteString(diskFullNote)
	}
	if diskFull || !b.kind.IsSandboxed() {
		status = store.TransientFailure
	}
	return &failure{status: status, msg: m.String()}
}

// knownOutputs lists the paths that the build would have made.
func (b *build) knownOutputs() string {
	var paths []storepath.Path
	for _, out := range b.job.Outputs {
		if !out.Path.IsZero() {
			paths = append(paths, out.Path)
		}
	}
	if len(paths) == 0 {
		return ""
	}
	return "\nOutput paths:\n  " + strings.Join(b.dir.PrintAll(storepath.SortUnique(paths)), "\n  ")
}

// diskReserve is how many free bytes are taken for a full disk.
const diskReserve = 8 << 20

// diskFull guesses whether a builder that failed did so for lack of space.
func (b *build) diskFull() bool {
	places := []string{b.s.RealDir()}
	if b.tmp != nil {
		places = append(places, b.tmp.path)
	}
	for _, p := range places {
		var st unix.Statfs_t
		if unix.Statfs(p, &st) == nil && st.Bavail*uint64(st.Bsize) < diskReserve { //nolint:gosec // a block size
			return true
		}
	}
	return false
}

// signalNames are glibc's, by number.
var signalNames = [...]string{
	1: "Hangup", 2: "Interrupt", 3: "Quit", 4: "Illegal instruction", 5: "Trace/breakpoint trap", 6: "Aborted",
	7: "Bus error", 8: "Floating point exception", 9: "Killed", 10: "User defined signal 1", 11: "Segmentation fault",
	12: "User defined signal 2", 13: "Broken pipe", 14: "Alarm clock", 15: "Terminated", 16: "Stack fault",
	17: "Child exited", 18: "Continued", 19: "Stopped (signal)", 20: "Stopped", 21: "Stopped (tty input)",
	22: "Stopped (tty output)", 23: "Urgent I/O condition", 24: "CPU time limit exceeded", 25: "File size limit exceeded",
	26: "Virtual timer expired", 27: "Profiling timer expired", 28: "Window changed", 29: "I/O possible",
	30: "Power failure", 31: "Bad system call",
}

// firstRealTime is the first signal that has no name; glibc keeps two more.
const firstRealTime = 34

// ended says how a process ended that did not exit with 0.
func ended(code int, sig unix.Signal) string {
	if sig == 0 {
		return fmt.Sprintf("failed with exit code %d", code)
	}
	name := fmt.Sprintf("Unknown signal %d", int(sig))
	if n := int(sig); n < len(signalNames) && signalNames[n] != "" {
		name = signalNames[n]
	} else if n >= firstRealTime {
		name = fmt.Sprintf("Real-time signal %d", n-firstRealTime)
	}
	return fmt.Sprintf("failed due to signal %d (%s)", int(sig), name)
}
