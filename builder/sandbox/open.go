package sandbox

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// launchOpen starts a builder without a sandbox; it returns his number.
//
// Another thread forks and stays till the end: what it takes from itself before, the
// builder does not get, and he dies with it. The keeper goes on listening
// meanwhile, since the builder's file may be on a file system that makes him wait.
func (k *keeper) launchOpen() (int, error) {
	var s builderSpec
	if err := unsealed(k.job[jobBuilder], &s); err != nil {
		return 0, fmt.Errorf("read what to run: %w", err)
	}
	done, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("eventfd: %w", err)
	}
	var builder int
	var failed *report
	go onLostThread(func() {
		builder, failed = k.forkOpen(&s)
		_, _ = unix.Write(done, []byte{7: 1}) // it can hold more than that
		<-k.over
		unix.Close(done)
	})
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
		{"have a working directory", func() error { return unix.Unshare(unix.CLONE_FS) }},
		{"enter the working directory", s.enterDir},
		{"drop supplementary groups", k.dropGroups},
		{"set the personality", s.personality},
		{"give up privileges", s.restrict},
	}).do(); r != nil {
		return 0, r
	}
	output := uintptr(k.job[jobOutput])
	attr := &syscall.ProcAttr{
		Env: s.Env, Files: []uintptr{0, output, output},
		Sys: &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL, Credential: k.s.credential()},
	}
	if k.s.HasCgroup {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, k.job[jobCgroup]
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
