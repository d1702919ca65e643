package enter

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Options are what [Supervise] is told.
type Options struct {
	// Umask is the one that the command is to have.
	Umask int
	// Own gives the command a user namespace of its own, in which it has the ids that
	// the user has outside. Otherwise it has the rights of the server.
	Own bool
	// Note is for the server, see [Server.Note].
	Note string
	// Lost is called when the server has ended before the command did.
	Lost func(syscall.WaitStatus)
}

// ServerError says that the server has ended without starting the command. It has
// told why.
type ServerError struct{ Status syscall.WaitStatus }

func (e *ServerError) Error() string {
	return fmt.Sprintf("what makes the surroundings of the command has ended: %s", describe(e.Status))
}

func describe(s syscall.WaitStatus) string {
	if s.Signaled() {
		return s.Signal().String()
	}
	return fmt.Sprintf("exit status %d", s.ExitStatus())
}

// Supervise starts a server, in the namespaces that its SysProcAttr says, and returns
// when it and the command that it started have ended. It says how the command did.
//
// It takes over the signals and the children of this process, and its standard
// input and output are closed to it. It stops when the command does.
func Supervise(server *exec.Cmd, o Options) (syscall.WaitStatus, error) {
	signals := make(chan os.Signal, 64)
	notify(signals)
	defer signal.Stop(signals)
	conn, err := start(server, o)
	if err != nil {
		return 0, err
	}
	s := &supervisor{
		server: server.Process.Pid, conn: conn, lost: o.Lost, started: make(chan int), changes: make(chan change),
		early: make(map[int]syscall.WaitStatus),
	}
	s.terminal, _ = os.OpenFile("/dev/tty", os.O_RDWR|unix.O_NOCTTY, 0) // none: no signals come from one
	go s.hear()
	go s.wait()
	return s.run(signals)
}

// forwarded are signals that go to the command when they come to us.
var forwarded = []os.Signal{unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGCONT}

// notify asks for the signals that matter, but for those that this process was told
// to ignore, and so the command is.
func notify(c chan<- os.Signal) {
	for _, s := range append([]os.Signal{unix.SIGTSTP}, forwarded...) {
		if !signal.Ignored(s) {
			signal.Notify(c, s)
		}
	}
}

// start starts the server.
func start(server *exec.Cmd, o Options) (*os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	ours, theirs := fds[0], fds[1]
	defer unix.Close(theirs)
	h := handover{Group: unix.Getpgrp(), Umask: o.Umask, UID: os.Getuid(), GID: os.Getgid(), Own: o.Own, Note: o.Note}
	var given []int
	defer func() {
		for _, fd := range given {
			unix.Close(fd)
		}
	}()
	for i, to := range []*int{&h.Files[0], &h.Files[1], &h.Files[2], &h.Conn} {
		from := i
		if to == &h.Conn {
			from = theirs
		}
		if *to, err = duplicate(from); err == nil && *to >= 0 {
			given = append(given, *to)
		}
		if err != nil {
			break
		}
	}
	text, jerr := h.variable()
	if err := errors.Join(err, jerr); err != nil {
		unix.Close(ours)
		return nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		unix.Close(ours)
		return nil, err
	}
	defer null.Close()
	if server.Env == nil {
		server.Env = os.Environ()
	}
	server.Env = append(server.Env, text)
	server.Stdin, server.Stdout, server.Stderr = null, os.Stderr, os.Stderr
	if server.SysProcAttr == nil {
		server.SysProcAttr = new(syscall.SysProcAttr)
	}
	server.SysProcAttr.Setpgid = true // the terminal's signals are not for it
	if err := server.Start(); err != nil {
		unix.Close(ours)
		return nil, err
	}
	// Whoever reads what the command writes is to see when it closes that.
	for _, fd := range []int{0, 1} {
		_ = unix.Dup3(int(null.Fd()), fd, 0)
	}
	return os.NewFile(uintptr(ours), "server"), nil
}

type supervisor struct {
	server, command int // numbers of the processes; 0: not started, or ended
	conn            *os.File
	terminal        *os.File // nil: there is none
	lost            func(syscall.WaitStatus)

	started chan int    // 0 when the command is about to start, then its number; closed with the connection
	changes chan change // closed when there are no children any more

	starting bool             // the command is about to start
	held     []syscall.Signal // that came then
	group    int              // of the command, which had the terminal when it stopped; or 0

	early  map[int]syscall.WaitStatus // who has ended, or stopped, before we knew who it was
	status *syscall.WaitStatus        // of the command
}

// change is what happened to a child.
type change struct {
	pid    int
	status syscall.WaitStatus
}

// hear reads what the server says.
func (s *supervisor) hear() {
	defer close(s.started)
	in := bufio.NewReader(s.conn)
	if _, err := in.ReadString('\n'); err != nil {
		return
	}
	s.started <- 0
	line, err := in.ReadString('\n')
	if pid, nerr := strconv.Atoi(strings.TrimSpace(line)); err == nil && nerr == nil && pid > 0 {
		s.started <- pid
	}
}

// wait waits for children.
func (s *supervisor) wait() {
	defer close(s.changes)
	for {
		var c change
		var err error
		c.pid, err = syscall.Wait4(-1, &c.status, syscall.WUNTRACED, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return
		default:
			s.changes <- c
		}
	}
}

// run is the supervisor's life.
func (s *supervisor) run(signals <-chan os.Signal) (syscall.WaitStatus, error) {
	var server syscall.WaitStatus
	started := s.started
	for {
		select {
		case pid, ok := <-started:
			if !ok {
				started = nil
			}
			s.know(pid, ok)
		case sig := <-signals:
			s.forward(sig.(syscall.Signal))
		case c, ok := <-s.changes:
			switch {
			case !ok && s.status == nil:
				return 0, &ServerError{server}
			case !ok:
				return *s.status, nil
			case c.pid == s.server && !c.status.Stopped():
				server, s.server = c.status, 0
				for pid := range s.started { // what it told us before
					s.know(pid, true)
				}
				s.know(0, false)
				started = nil
				if s.command != 0 && s.lost != nil {
					s.lost(c.status)
				}
			default:
				s.changed(c)
			}
		}
	}
}

// know learns what the server said: 0 when the command is about to start, and then
// which child it is; it may have ended already. ok tells that it said something, and is
// not gone.
func (s *supervisor) know(pid int, ok bool) {
	s.starting = ok && pid == 0
	if s.starting {
		_, _ = s.conn.Write([]byte{'\n'}) // who does not hear it starts no command
		return
	}
	if pid > 0 {
		s.command = pid
		if status, ok := s.early[pid]; ok {
			s.changed(change{pid, status})
		}
	}
	// What came in the meantime goes to whoever is there.
	for _, sig := range s.held {
		s.forward(sig)
	}
	s.held = nil
}

// changed is about a child that is not the server.
func (s *supervisor) changed(c change) {
	switch {
	case c.status.Stopped() && c.pid == s.command:
		s.stop()
	case c.pid != s.command:
		s.early[c.pid] = c.status
	default:
		s.command, s.status = 0, &c.status
		s.conn.Close() // which tells the server
	}
}

// stopPause is longer than the kernel takes from one process of a group to the next.
const stopPause = 10 * time.Millisecond

// stop stops this process, for whoever waits for it to see that and to take the terminal.
// A command with a process group of its own, such as a shell, had the terminal.
//
// A command that wanted to read in the background has stopped us, too. Then we hear of it only when
// both go on, and if we are first, before the command does: whether it has stopped is what it is a little
// later.
func (s *supervisor) stop() {
	time.Sleep(stopPause)
	if state, _, ok := stat(s.command); !ok || state != 'T' {
		return
	}
	group, err := unix.Getpgid(s.command)
	if err == nil && group != unix.Getpgrp() && group == s.foreground() {
		s.group = group
	}
	_ = unix.Kill(os.Getpid(), unix.SIGSTOP) // which may take effect a little later
}

// goOn gives the terminal back to the command, if we got it and it had it. It does not
// ask for it itself: it believes that it has never lost it.
func (s *supervisor) goOn() {
	if s.group != 0 && s.foreground() == unix.Getpgrp() {
		_ = unix.IoctlSetPointerInt(int(s.terminal.Fd()), unix.TIOCSPGRP, s.group) // the group may be gone
		s.group = 0
	}
}

// forward hands a signal on. What comes from the keyboard the command has got itself,
// being in our process group.
func (s *supervisor) forward(sig syscall.Signal) {
	if s.starting {
		s.held = append(s.held, sig)
		return
	}
	to := s.command
	switch {
	case to == 0 && (sig == unix.SIGTSTP || sig == unix.SIGCONT):
		return
	case to == 0: // it is not there yet, or not any more
		to = s.server
		if sig != unix.SIGINT {
			sig = unix.SIGTERM
		}
	case (sig == unix.SIGINT || sig == unix.SIGQUIT || sig == unix.SIGTSTP) && s.foreground() == unix.Getpgrp():
		return
	}
	if sig == unix.SIGCONT {
		s.goOn()
	}
	if to != 0 {
		_ = unix.Kill(to, sig) // a child that was not waited for
	}
}

// foreground is the process group that has the terminal; 0 without one.
func (s *supervisor) foreground() int {
	if s.terminal == nil {
		return 0
	}
	group, err := unix.IoctlGetInt(int(s.terminal.Fd()), unix.TIOCGPGRP)
	if err != nil {
		return 0
	}
	return group
}
