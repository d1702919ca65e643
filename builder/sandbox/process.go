package sandbox

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Exit is how a builder ended.
type Exit struct {
	// Status is that of the builder's first process.
	Status syscall.WaitStatus
	// Killed tells that we killed it: by Kill, or because its context ended.
	Killed bool
	// User and System are CPU time: of all processes if the build had a cgroup,
	// otherwise of those that somebody waited for.
	User, System time.Duration
}

// Process is a builder that has been started. Its methods may be called by any
// goroutine.
type Process struct {
	user   *User
	cgroup *Cgroup
	keeper *keeperProcess
	stop   func() bool // from listening to the context

	started  chan struct{} // closed when the builder has been executed
	ended    chan struct{} // closed when nothing is left, after what follows is set
	startErr error
	exit     Exit
	exitErr  error

	showing sync.Mutex   // one order at a time
	shown   chan *report // answers to orders

	mu     sync.Mutex
	killed bool
	over   bool // the keeper is not ours any more
}

func newProcess(s *Spec, keeper *keeperProcess) *Process {
	p := &Process{
		user: s.User, cgroup: s.Cgroup, keeper: keeper,
		stop: func() bool { return true }, started: make(chan struct{}), ended: make(chan struct{}),
		shown: make(chan *report, 1),
	}
	go p.follow()
	return p
}

// errKeeperDied says that the keeper ended before it was done.
var errKeeperDied = errors.New("the process that keeps the builder has died")

// follow hears what the keeper tells, and sees to it in the end that nothing is left.
func (p *Process) follow() {
	defer close(p.ended)
	running, done := p.listen()
	if !done {
		p.sweep()
	}
	p.mu.Lock()
	p.over = true
	killed := p.killed
	p.mu.Unlock()
	if failed := p.startErr != nil || p.exitErr != nil; done && !failed && !killed && !p.keeper.once {
		p.keeper.release()
	} else if state, err := p.keeper.dismiss(); err != nil {
		p.exitErr = err
	} else if !done {
		p.exitErr = errors.Join(fmt.Errorf("%w (%v)", errKeeperDied, state), p.exitErr)
	}
	if !running && p.startErr == nil {
		p.startErr = p.exitErr
	}
	p.exit.Killed = killed && p.exit.Status.Signal() == unix.SIGKILL
	if p.cgroup != nil {
		p.account()
	}
}

// listen hears events. It reports whether the builder was started, and whether the
// keeper came to the end of its work.
func (p *Process) listen() (running, done bool) {
	message := make([]byte, maxMessage)
	for {
		n, err := p.keeper.conn.Read(message)
		var e event
		if err != nil || unpack(message[:n], &e) != nil {
			return running, false
		}
		switch e.kind {
		case builderStarted:
			running = true
			close(p.started)
		case mountShown:
			p.shown <- &e.report
		case builderFailed:
			if running {
				p.exitErr = e.report.err()
			} else {
				p.startErr = e.report.err()
			}
			p.killCgroup()
		case builderEnded:
			p.exit = Exit{Status: e.ending.Status, User: e.ending.User, System: e.ending.System}
			p.killCgroup()
		case keeperFree:
			return running, true
		}
	}
}

// killCgroup kills what is in the control group at one blow, before the keeper
// runs after it.
func (p *Process) killCgroup() {
	if p.cgroup != nil {
		_ = p.cgroup.kill() // account tells if something is left
	}
}

// sweep kills what a keeper left that died itself. A sandbox died with it.
func (p *Process) sweep() {
	p.killCgroup()
	if p.user != nil && p.user.lock != nil { // nothing else runs as that user
		p.exitErr = endUser(p.user.UID)
	}
}

// account waits until the control group is empty and reads what it used.
func (p *Process) account() {
	err := p.cgroup.empty(context.Background())
	if err == nil {
		p.exit.User, p.exit.System, err = p.cgroup.cpu()
	}
	p.exitErr = errors.Join(p.exitErr, err)
}

// Pid is a process whose child the builder is, or what surrounds it. It may have had other
// children before, and may not be ours any more when the builder has ended.
func (p *Process) Pid() int { return p.keeper.Pid }

// Wait waits until the builder has ended and nothing is left of it. An error says
// that something may be left, or that it is not known how it ended. It may be
// called more than once.
func (p *Process) Wait() (Exit, error) {
	<-p.ended
	p.stop()
	return p.exit, p.exitErr
}

// Kill ends the builder and all that belongs to it. It does not wait; it may
// be called more than once, and after the end.
func (p *Process) Kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.killed || p.over {
		return
	}
	p.killed = true
	if c, err := p.keeper.conn.SyscallConn(); err == nil {
		// The end of orders is one to kill. This fails only when all has ended.
		_ = c.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
	}
	// Without a sandbox or a build user the builder may have stopped the keeper.
	_ = p.keeper.Signal(unix.SIGCONT)
	p.killCgroup()
}

// Show makes another file or directory visible in the sandbox, read-only, in an
// [Own] mount of the sandbox at a place that was not there yet. It returns when it is to
// be seen.
func (p *Process) Show(ctx context.Context, source, target string) error {
	m := Mount{Kind: ReadOnly, Source: source, Target: target}
	if err := errors.Join(m.check(), ctx.Err()); err != nil {
		return err
	}
	p.showing.Lock()
	defer p.showing.Unlock()
	if err := p.order(&order{source, target}); err != nil {
		return fmt.Errorf("show %s in the sandbox: %w", target, err)
	}
	select {
	case r := <-p.shown:
		if r.Step != "" {
			return r.err()
		}
		return nil
	case <-p.ended:
		return fmt.Errorf("show %s in the sandbox: the builder has ended", target)
	}
}

// order tells the keeper something, while it is ours.
func (p *Process) order(o *order) error {
	message := packUp(o)
	if len(message) > maxMessage {
		return unix.ENAMETOOLONG
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return nil // who waits for the answer hears that it has ended
	}
	_, err := p.keeper.conn.Write(message)
	return err
}
