package remote

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/builder/buildlog"
	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/wire"
)

// Hook asks a program of the administrator for places ("build-hook"). The program
// copies and builds by itself; it speaks as Nix's own `nix __build-remote` does.
//
// Source: src/libstore/unix/build/hook-instance.cc and
// src/libstore/build/derivation-building-goal.cc.
type Hook struct {
	command []string
	local   Local
	o       execute.Options

	mu    sync.Mutex
	proc  *hookProcess // that waits for a question; nil: none does
	never bool         // it has said that it will build nothing
}

// NewHook makes the hook of a request. The caller closes it.
func NewHook(command []string, local Local, o execute.Options) *Hook {
	return &Hook{command: command, local: local, o: o}
}

// Close ends the program, if it waits.
func (h *Hook) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.proc != nil {
		h.proc.close()
		h.proc = nil
	}
}

// Suits cannot be told before the hook is asked.
func (h *Hook) Suits(Need) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.never
}

// hookVerbosity is the level of what the hook is to tell.
const hookVerbosity = activity.Info

// Ask asks the hook for a place.
func (h *Hook) Ask(ctx context.Context, drv string, n Need, willing bool) (Answer, Place, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.never {
		return Decline, nil, nil
	}
	if h.proc == nil {
		p, err := h.start(ctx)
		if err != nil {
			return Decline, nil, err
		}
		h.proc = p
	}
	p := h.proc
	stop := context.AfterFunc(ctx, p.kill)
	defer stop()
	reply, err := p.ask(ctx, drv, n, willing)
	if err != nil {
		h.proc = nil
		p.close()
		if ctx.Err() != nil {
			return Decline, nil, context.Cause(ctx)
		}
		activity.Errorf(ctx, "build hook '%s' died unexpectedly: %v", h.command[0], err)
		return Decline, nil, nil
	}
	switch reply {
	case "decline":
		return Decline, nil, nil
	case "postpone":
		return Postpone, nil, nil
	case "decline-permanently":
		h.never, h.proc = true, nil
		p.close()
		return Decline, nil, nil
	case "accept":
		h.proc = nil // it is busy now
		return Accept, &hookPlace{h: h, p: p}, nil
	}
	h.proc = nil
	p.close()
	return Decline, nil, fmt.Errorf("build hook '%s': bad hook reply '%.100s'", h.command[0], reply)
}

// hookProcess is a running hook.
type hookProcess struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	say    *wire.Writer  // on in
	says   *bufio.Reader // from its standard error, errors: answers, and messages
	errors *os.File
	output *os.File // what builders print

	over sync.Once
	err  error // how it ended
}

// start starts the hook: with its questions on standard input, its answers on
// standard error, and what builders print on descriptor 4. Descriptor 5 is the other
// end of that.
func (h *Hook) start(ctx context.Context) (_ *hookProcess, err error) {
	fail := func(err error) error { return fmt.Errorf("starting build hook '%s': %w", h.command[0], err) }
	var opened []*os.File
	pipe := func() (r, w *os.File) {
		if err == nil {
			if r, w, err = os.Pipe(); err == nil {
				opened = append(opened, r, w)
			}
		}
		return r, w
	}
	theirIn, in := pipe()
	says, theirErr := pipe()
	output, theirOutput := pipe()
	null, openErr := os.Open(os.DevNull)
	err = errors.Join(err, openErr)
	var shared *os.File
	if err == nil {
		// What a child is given loses its deadlines, so that this is another descriptor.
		shared, err = duplicate(output)
	}
	if err != nil {
		for _, f := range opened {
			_ = f.Close()
		}
		return nil, fail(err)
	}
	args := append(append([]string(nil), h.command[1:]...), fmt.Sprint(uint64(hookVerbosity)))
	cmd := exec.Command(h.command[0], args...)
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stderr = theirIn, theirErr
	cmd.ExtraFiles = []*os.File{null, theirOutput, shared}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	err = cmd.Start()
	for _, f := range []*os.File{theirIn, theirErr, theirOutput, null, shared} {
		_ = f.Close()
	}
	if err != nil {
		for _, f := range []*os.File{in, says, output} {
			_ = f.Close()
		}
		return nil, fail(err)
	}
	p := &hookProcess{cmd: cmd, in: in, say: wire.NewWriter(in), says: bufio.NewReader(says), errors: says, output: output}
	for name, value := range settingsOf(h.o.Config) {
		p.say.Uint64(1)
		p.say.Text(name)
		p.say.Text(value)
	}
	p.say.Uint64(0)
	_ = p.say.Flush() // the first question tells
	return p, nil
}

// duplicate opens the same again, without taking f from Go's poller as File.Fd does.
func duplicate(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	if ctlErr := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); ctlErr != nil {
		return nil, ctlErr
	}
	if err != nil {
		return nil, fmt.Errorf("dup: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// settingsOf reads lines "name = value".
func settingsOf(config string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(config) {
		if name, value, ok := strings.Cut(line, "="); ok {
			out[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	return out
}

// maxHookLine is the longest line that a hook may say, in bytes.
const maxHookLine = 1 << 20

// line reads one line of what the hook says.
func (p *hookProcess) line() (string, error) {
	var b strings.Builder
	for {
		part, err := p.says.ReadSlice('\n')
		b.Write(part)
		switch {
		case err == nil:
			return strings.TrimSuffix(b.String(), "\n"), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return b.String(), err
		case b.Len() > maxHookLine:
			return "", fmt.Errorf("a line of more than %d bytes", maxHookLine)
		}
	}
}

// ask puts one question, and passes on what the hook says before it answers.
func (p *hookProcess) ask(ctx context.Context, drv string, n Need, willing bool) (string, error) {
	p.say.Text("try")
	p.say.Bool(willing)
	p.say.Text(n.System)
	p.say.Text(drv)
	p.say.Strings(n.Features)
	if err := p.say.Flush(); err != nil {
		return "", err
	}
	lines := buildlog.NewLines(ctx, &activity.Activity{}, 0)
	lines.Trust()
	defer func() { _ = lines.Close() }() // it never fails
	for {
		line, err := p.line()
		if err != nil {
			return "", err
		}
		if reply, ok := strings.CutPrefix(line, "# "); ok {
			return reply, nil
		}
		if strings.HasPrefix(line, "@nix ") {
			_, _ = lines.Write([]byte(line + "\n")) // never fails
		} else {
			activity.Logf(ctx, activity.Error, "%s", line)
		}
	}
}

// hookDrain is how long is read what a hook has said that has ended.
const hookDrain = time.Second

// kill ends the hook with all its children, and waits for it.
func (p *hookProcess) kill() {
	p.over.Do(func() {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		p.end()
	})
}

// close is kill, after which nothing that it said is read any more.
func (p *hookProcess) close() {
	p.kill()
	_ = p.errors.Close()
	_ = p.output.Close()
}

// wait waits for a hook that has come to its end by itself.
func (p *hookProcess) wait() error {
	p.over.Do(p.end)
	return p.err
}

func (p *hookProcess) end() {
	p.err = p.cmd.Wait()
	_ = p.in.Close()
	for _, f := range []*os.File{p.errors, p.output} {
		_ = f.SetReadDeadline(time.Now().Add(hookDrain))
	}
}
