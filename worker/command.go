package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// commandGrace is how long a command may take to end after its connection was
// closed, before it is killed.
const commandGrace = 2 * time.Second

// maxLastWords is how many bytes of a command's standard error are kept for errors.
const maxLastWords = 4 << 10

// DialCommand starts a command for each connection and speaks with it through its
// standard input and output: `ssh host nix-daemon --stdio`, say. make prepares
// the command; its Stderr may be set, Stdin and Stdout are set here. Closing the
// connection ends the command: it sees the end of its input, and is killed if that
// is not enough.
func DialCommand(make func() (*exec.Cmd, error)) Dialer {
	return func(ctx context.Context) (net.Conn, error) {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		cmd, err := make()
		if err != nil {
			return nil, err
		}
		return startCommand(cmd)
	}
}

// CommandError is a command that ended although it was still needed.
type CommandError struct {
	Command string // its name
	Err     error  // how it ended; may be nil
	Stderr  string // the last that it said
}

func (e *CommandError) Error() string {
	s := fmt.Sprintf("'%s' ended unexpectedly", e.Command)
	if e.Err != nil {
		s += " with " + e.Err.Error()
	}
	if e.Stderr != "" {
		s += ": " + e.Stderr
	}
	return s
}

// Unwrap makes it an ErrDisconnected.
func (e *CommandError) Unwrap() []error { return []error{ErrDisconnected, e.Err} }

// startCommand uses a socket and not two pipes, so that it can be seen whether the
// other side has hung up.
func startCommand(cmd *exec.Cmd) (net.Conn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	theirs, ours := os.NewFile(uintptr(fds[0]), "command"), os.NewFile(uintptr(fds[1]), "connection")
	defer theirs.Close()
	nc, err := net.FileConn(ours)
	_ = ours.Close() // FileConn has a duplicate
	if err != nil {
		return nil, err
	}
	c := &commandConn{UnixConn: nc.(*net.UnixConn), cmd: cmd, ended: make(chan struct{})}
	cmd.Stdin, cmd.Stdout = theirs, theirs
	if cmd.Stderr == nil {
		cmd.Stderr = &c.said
	} else {
		cmd.Stderr = io.MultiWriter(cmd.Stderr, &c.said)
	}
	if cmd.WaitDelay == 0 {
		cmd.WaitDelay = commandGrace // for those who inherited its standard error
	}
	if err := cmd.Start(); err != nil {
		_ = nc.Close()
		return nil, err
	}
	go func() {
		c.err = cmd.Wait()
		close(c.ended)
	}()
	return c, nil
}

// commandConn is a connection to a command.
type commandConn struct {
	*net.UnixConn
	cmd   *exec.Cmd
	said  saidLast
	ended chan struct{} // closed when it has ended, after err is set
	err   error
}

// Read tells the end of the command as an error with its reasons.
func (c *commandConn) Read(p []byte) (int, error) {
	n, err := c.UnixConn.Read(p)
	if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) { // the latter if it left something unread
		err = c.reason(err)
	}
	return n, err
}

// Write does likewise.
func (c *commandConn) Write(p []byte) (int, error) {
	n, err := c.UnixConn.Write(p)
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		err = c.reason(err)
	}
	return n, err
}

// reason waits for the end of a command that has hung up, which is about to come.
func (c *commandConn) reason(err error) error {
	select {
	case <-c.ended:
		return &CommandError{Command: c.cmd.Args[0], Err: c.err, Stderr: c.said.String()}
	case <-time.After(commandGrace):
		return err
	}
}

// Close ends the command and waits for it.
func (c *commandConn) Close() error {
	err := c.UnixConn.Close()
	select {
	case <-c.ended:
	case <-time.After(commandGrace):
		_ = c.cmd.Process.Kill() // fails only if it has ended
		<-c.ended
	}
	return err
}

// saidLast keeps the end of what is written to it.
type saidLast struct {
	mu  sync.Mutex
	buf []byte
}

// Write never fails.
func (l *saidLast) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = append(l.buf, p...)
	if over := len(l.buf) - maxLastWords; over > 0 {
		l.buf = bytes.Clone(l.buf[over:])
	}
	return len(p), nil
}

// String is what was said last, without blanks around it.
func (l *saidLast) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.TrimSpace(string(l.buf))
}
