package testenv

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// A binary that imports this package serves as its own helper: started under
// one of these names as argv[0], it does that duty and exits. The namespaces
// are made by the fork, so a duty starts inside them.
const (
	enterName = "strata-testenv-enter" // args: spec, command…; see enter.go
	probeName = "strata-testenv-probe" // args: name of the probe; see probe.go
)

func init() {
	var err error
	switch os.Args[0] {
	case enterName:
		err = enter(os.Args[1:])
	case probeName:
		err = runProbe(os.Args[1:])
	default:
		return
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[0], err)
		os.Exit(125)
	}
	os.Exit(0)
}

// Namespace says in what a process is to be started besides a mount namespace
// of its own.
type Namespace struct {
	// User asks for a user namespace even when the test runs as root. Without
	// it root gets only the mount namespace, and everybody else both.
	User bool
	// PIDs asks for a process namespace. To a collection of garbage every process that it
	// sees may hold roots, also those of other tests that run at the same time.
	PIDs bool
}

// sysProcAttr makes a child start as root in a mount namespace of its own, and
// in a user namespace if wanted or unavoidable. Mounts of the parent reach the
// child and none of the child's comes back.
func (ns Namespace) sysProcAttr() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if ns.User || os.Geteuid() != 0 {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	if ns.PIDs {
		attr.Cloneflags |= unix.CLONE_NEWPID
	}
	return attr
}

// enter does in a process that was started in the namespaces what is still to be done.
func (ns Namespace) enter() error {
	if err := noPropagation(); err != nil || !ns.PIDs {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}

// noPropagation keeps the mounts of this mount namespace from reaching the one
// it was copied from.
func noPropagation() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	return nil
}

// selfExec prepares this very binary to run under a duty's name.
func selfExec(cmd *exec.Cmd, duty string, args ...string) {
	cmd.Path = "/proc/self/exe"
	cmd.Args = append([]string{duty}, args...)
}

// probe runs a probe in a child; the error says what did not work.
func probe(name string, ns Namespace) error {
	var cmd exec.Cmd
	selfExec(&cmd, probeName, name)
	cmd.SysProcAttr = ns.sysProcAttr()
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if msg := bytes.TrimSpace(out); len(msg) > 0 {
		return fmt.Errorf("%s", msg)
	}
	return err
}
