package testenv

import (
	"bytes"
	"errors"
	"net"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a process gets to open its socket or to end. It only
// bounds how long a failing test takes.
const patience = 30 * time.Second

// Process is a command that runs in the background of a test.
type Process struct {
	Cmd *exec.Cmd

	t    testing.TB
	log  LockedBuffer
	done chan struct{} // closed when the process has ended, after err is set
	err  error
}

// Start starts a command and stops it when the test ends, SIGTERM first. What
// it wrote is shown when the test fails. Stdout and Stderr of the command are
// set unless the caller has done so.
func Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{Cmd: cmd, t: t, done: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = &p.log
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &p.log
	}
	if cmd.WaitDelay == 0 {
		cmd.WaitDelay = 10 * time.Second
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", cmd, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.Stop()
		if t.Failed() {
			t.Logf("output of %q:\n%s", cmd.Args, p.Output())
		}
	})
	return p
}

// Stop sends SIGTERM, waits for the end of the process, and returns what
// exec.Cmd.Wait said. A process that does not obey is killed, which is an error
// of the test. Stopping a second time only returns the same again.
func (p *Process) Stop() error {
	p.t.Helper()
	p.Cmd.Process.Signal(syscall.SIGTERM) // fails only if it has ended
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Errorf("%q does not obey SIGTERM", p.Cmd.Args)
		p.Kill()
	}
	return p.err
}

// Kill ends the process as a crash would and waits for it.
func (p *Process) Kill() {
	p.Cmd.Process.Kill() // fails only if it has ended
	<-p.done
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Output is what the process has written until now.
func (p *Process) Output() string { return p.log.String() }

// WaitSocket returns when a connection to a unix socket is accepted, and fails
// the test when the process ends before that.
func (p *Process) WaitSocket(path string) {
	p.t.Helper()
	p.waitFor("unix", path)
}

// waitAddress is WaitSocket for a TCP port.
func (p *Process) waitAddress(address string) {
	p.t.Helper()
	p.waitFor("tcp", address)
}

func (p *Process) waitFor(network, address string) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		conn, err := net.Dial(network, address)
		if err == nil {
			conn.Close()
			return
		}
		if errors.Is(err, syscall.EINVAL) || time.Now().After(deadline) {
			p.t.Fatalf("%q does not listen: %v\n%s", p.Cmd.Args, err, p.Output())
		}
		select {
		case <-p.done:
			p.t.Fatalf("%q ended without listening on %s: %v\n%s", p.Cmd.Args, address, p.err, p.Output())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// LockedBuffer can be read while a process or a server still writes to it.
type LockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write adds to the buffer.
func (l *LockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String is everything that was written so far.
func (l *LockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// killGroup kills a process that leads a group together with the group.
func killGroup(cmd *exec.Cmd) error {
	return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
}
