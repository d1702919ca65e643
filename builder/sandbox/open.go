package sandbox

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// launchOpen starts a builder without a sandbox; it returns his number.
//
// A thread of the keeper's forks and stays: what it takes from itself before, the
// builder does not get, and he dies with it. The keeper goes on listening
// meanwhile, since the builder's file may be on a file system that makes him wait.
func (k *keeper) launchOpen() (int, error) {
	var s builderSpec
	if r := (steps{
		{"read what to run", func() error { return unsealed(keeperBuilder, &s) }},
		{"reset signals and limits", resetProcess},
		{"enter the working directory", s.enterDir},
	}).do(); r != nil {
		return 0, r
	}
	done, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("eventfd: %w", err)
	}
	defer unix.Close(done)
	var builder int
	var failed *report
	go func() {
		runtime.LockOSThread() // this is not the first thread, which the keeper has kept since it began
		builder, failed = k.forkOpen(&s)
		_, _ = unix.Write(done, []byte{7: 1}) // fails when the keeper has given up
		select {}
	}()
	for {
		ready, err := k.poll(done, -1)
		switch {
		case err != nil:
			return 0, err
		case !ready:
		case failed != nil:
			return 0, failed
		default:
			return builder, nil
		}
	}
}

// forkOpen forks and executes the builder.
func (k *keeper) forkOpen(s *builderSpec) (int, *report) {
	if r := (steps{
		{"set the personality", s.personality},
		{"give up privileges", s.restrict},
	}).do(); r != nil {
		return 0, r
	}
	attr := &syscall.ProcAttr{
		Env: s.Env, Files: []uintptr{0, keeperOutput, keeperOutput},
		Sys: &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL, Credential: k.s.credential()},
	}
	if k.s.HasCgroup {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, keeperCgroup
	}
	builder, err := syscall.ForkExec(s.Path, s.Args, attr)
	if err == nil {
		return builder, nil
	}
	// Where a program that is not there is found not to be there, all else is well.
	const nothing = "/proc/self/nothing-of-this-name"
	if _, err := syscall.ForkExec(nothing, []string{nothing}, attr); !errors.Is(err, os.ErrNotExist) {
		return 0, newReport("become the build user", err)
	}
	r := newReport(s.Path, err)
	r.Exec = true
	return 0, r
}
