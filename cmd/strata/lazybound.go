package main

import (
	"os"
	"os/exec"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/fusefs"
)

// lazyBound says with whom a process ends that keeps or serves the mount of a lazy lower which nobody else can see. In its namespaces nothing
// would ever end it.
type lazyBound struct {
	withParent     bool // with the stack's process
	withSupervisor bool // but not before the command of 'strata run' has ended, whose programs read from the mount
}

// Where such a process finds them, behind fuseFD: a pipe that the stack's process has open, and the process descriptor
// of the supervisor.
const (
	parentFD     = 4
	supervisorFD = 5
)

func (o *lazyBound) addFlags(f *pflag.FlagSet) {
	f.BoolVar(&o.withParent, "with-parent", false, "end with the process that has descriptor 4 open")
	f.BoolVar(&o.withSupervisor, "with-supervisor", false, "but not before the process of descriptor 5 has ended")
}

// bind lets a command end with others. supervisor may be nil.
func bind(cmd *exec.Cmd, parent, supervisor *os.File) {
	cmd.Args, cmd.ExtraFiles = append(cmd.Args, "--with-parent"), append(cmd.ExtraFiles, parent)
	if supervisor != nil {
		cmd.Args, cmd.ExtraFiles = append(cmd.Args, "--with-supervisor"), append(cmd.ExtraFiles, supervisor)
	}
}

// watch calls end when they have ended.
func (o *lazyBound) watch(end func()) {
	if !o.withParent {
		return
	}
	unix.CloseOnExec(parentFD)
	if o.withSupervisor {
		unix.CloseOnExec(supervisorFD)
	}
	go func() {
		awaitEvent(parentFD, 0) // it is never written to
		if o.withSupervisor {
			awaitEvent(supervisorFD, unix.POLLIN)
		}
		end()
	}()
}

// awaitEvent returns when a descriptor has an event, or is hung up.
func awaitEvent(fd int32, events int16) {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: fd, Events: events}}, -1)
		if n > 0 || err != nil && err != unix.EINTR {
			return
		}
	}
}

// pass lets processes that serve the mount end with the same ones, should this one be killed.
func (o *lazyBound) pass(command func(fusefs.Takeover) *exec.Cmd) func(fusefs.Takeover) *exec.Cmd {
	if !o.withParent {
		return command
	}
	parent := os.NewFile(parentFD, "parent")
	var supervisor *os.File
	if o.withSupervisor {
		supervisor = os.NewFile(supervisorFD, "supervisor")
	}
	return func(start fusefs.Takeover) *exec.Cmd {
		cmd := command(start)
		bind(cmd, parent, supervisor)
		return cmd
	}
}
