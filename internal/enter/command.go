package enter

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Command is what a server starts.
type Command struct {
	Args []string // the program, as for a shell, and its arguments
	Env  []string
	Dir  string
}

// ExecError says that there is no such command, or that it cannot be executed.
type ExecError struct {
	Name string
	Err  error
}

func (e *ExecError) Error() string {
	if errors.Is(e.Err, fs.ErrNotExist) || errors.Is(e.Err, exec.ErrNotFound) {
		return fmt.Sprintf("there is no command '%s'", e.Name)
	}
	return fmt.Sprintf("command '%s' cannot be executed: %v", e.Name, e.Err)
}

func (e *ExecError) Unwrap() error { return e.Err }

// ExitStatus is what shells say of it: 127 if it is not there, else 126.
func (e *ExecError) ExitStatus() uint64 {
	if errors.Is(e.Err, fs.ErrNotExist) || errors.Is(e.Err, exec.ErrNotFound) {
		return 127
	}
	return 126
}

// Start starts the command as a child of the supervisor's. An error about the command
// itself is an [*ExecError]. If there is one, nothing was started; if not, [Server.Ended] tells
// when that is over, and who the command has left is to be ended by [EndOthers].
func (s *Server) Start(c Command) error {
	path, err := lookPath(c)
	if err != nil {
		return &ExecError{Name: c.Args[0], Err: err}
	}
	attr := &syscall.ProcAttr{Env: c.Env, Sys: &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_PARENT, Setpgid: true, Pgid: s.h.Group,
	}}
	for _, fd := range s.h.Files {
		attr.Files = append(attr.Files, uintptr(fd)) // -1 closes
	}
	if s.h.Own {
		attr.Sys.Cloneflags |= unix.CLONE_NEWUSER
		attr.Sys.UidMappings = []syscall.SysProcIDMap{{ContainerID: s.h.UID, HostID: os.Geteuid(), Size: 1}}
		attr.Sys.GidMappings = []syscall.SysProcIDMap{{ContainerID: s.h.GID, HostID: os.Getegid(), Size: 1}}
	}
	// From here on signals wait for the command instead of coming to us.
	if err := s.ask(); err != nil {
		return err
	}
	pid, err := s.forkAs(path, c, attr)
	if err != nil {
		return &ExecError{Name: c.Args[0], Err: err}
	}
	for _, fd := range s.h.Files {
		if fd >= 0 {
			unix.Close(fd) // so that the other ends see when the command closes them
		}
	}
	go s.listen()
	// If nobody hears it, nobody wants the command any more, which listen finds out: but
	// started it is, and somebody has to end it.
	_, _ = s.conn.Write([]byte(strconv.Itoa(pid) + "\n"))
	return nil
}

// ask tells the supervisor that the command is about to start, and waits until it
// knows.
func (s *Server) ask() error {
	_, err := s.conn.Write([]byte{'\n'})
	if err == nil {
		_, err = s.conn.Read(make([]byte, 1))
	}
	if err != nil {
		return fmt.Errorf("nobody wants the command any more: %w", err)
	}
	return nil
}

// forkAs forks from a thread that has the umask and the working directory of the
// command, and no other use.
func (s *Server) forkAs(path string, c Command, attr *syscall.ProcAttr) (pid int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for ever
		if err = unix.Unshare(unix.CLONE_FS); err != nil {
			return
		}
		unix.Umask(s.h.Umask)
		if err = unix.Chdir(c.Dir); err != nil {
			return
		}
		pid, err = syscall.ForkExec(path, c.Args, attr)
	}()
	<-done
	return pid, err
}

// lookPath finds the program as a shell would, in the environment of the command.
func lookPath(c Command) (string, error) {
	name := c.Args[0]
	if strings.Contains(name, "/") {
		return name, nil
	}
	found := error(exec.ErrNotFound)
	for _, dir := range filepath.SplitList(variable(c.Env, "PATH")) {
		path := filepath.Join(dir, name)
		if dir == "" || !filepath.IsAbs(path) {
			path = filepath.Join(c.Dir, path)
		}
		st, err := os.Stat(path)
		switch {
		case err != nil || st.IsDir():
		case unix.Access(path, unix.X_OK) != nil:
			found = fs.ErrPermission
		default:
			return path, nil
		}
	}
	return "", found
}

// variable is the value of the last variable of that name.
func variable(env []string, name string) (value string) {
	for _, v := range env {
		if rest, ok := strings.CutPrefix(v, name+"="); ok {
			value = rest
		}
	}
	return value
}
