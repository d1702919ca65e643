package compress

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A child is a program that reads its standard input and writes its standard
// output. It is killed when its context is done.
type child struct {
	cmd    *exec.Cmd
	stdin  *os.File
	stdout *os.File
	stderr limitedBuffer
	wait   func() error // for its end, which it tells as often as it is asked
}

// pipeSize keeps the program and us from waiting for each other's turn, in
// bytes. Where so much is not permitted the pipe stays as it is.
const pipeSize = 512 << 10

// startChild's pipes are not the runtime's to watch: it would wake up for each few
// kilobytes that the program moves.
func startChild(ctx context.Context, program string, args []string) (*child, error) {
	c := &child{cmd: exec.CommandContext(ctx, program, args...)}
	theirIn, ourIn, err := pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	defer theirIn.Close()
	ourOut, theirOut, err := pipe()
	if err != nil {
		ourIn.Close()
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	defer theirOut.Close()
	c.stdin, c.stdout = ourIn, ourOut
	c.cmd.Env = xzEnv()
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = theirIn, theirOut, &c.stderr
	// A Ctrl-C is for us, who then cancel ctx and say what was interrupted.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.cmd.Start(); err != nil {
		ourIn.Close()
		ourOut.Close()
		return nil, err
	}
	c.wait = sync.OnceValue(c.end)
	return c, nil
}

// pipe makes a pipe whose ends block.
func pipe() (r, w *os.File, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	_, _ = unix.FcntlInt(uintptr(p[0]), unix.F_SETPIPE_SZ, pipeSize)
	return os.NewFile(uintptr(p[0]), "|0"), os.NewFile(uintptr(p[1]), "|1"), nil
}

// end waits for the program and says how it went.
func (c *child) end() error {
	err := c.cmd.Wait()
	c.stdout.Close()
	if err == nil {
		return nil
	}
	if text := strings.TrimSpace(string(c.stderr.kept)); text != "" {
		return fmt.Errorf("%s: %w: %s", c.cmd.Path, err, text)
	}
	return fmt.Errorf("%s: %w", c.cmd.Path, err)
}

func (c *child) kill() { _ = c.cmd.Process.Kill() }

// A limitedBuffer keeps the beginning of what it is given.
type limitedBuffer struct{ kept []byte }

const maxStderr = 4 << 10

func (b *limitedBuffer) Write(p []byte) (int, error) {
	b.kept = append(b.kept, p[:min(len(p), maxStderr-len(b.kept))]...)
	return len(p), nil
}
