package enter

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// serverEnv is the variable in the server's environment by which the supervisor tells
// it what it needs.
const serverEnv = "STRATA_ENTER"

// lowest is above all numbers of files that a command may have been given.
const lowest = 200

// handover is what the server is told.
type handover struct {
	Conn  int    // the connection to the supervisor
	Files [3]int // the command's standard files; -1: closed
	Group int    // the process group of the command
	Umask int    // of the command
	UID   int    // who the user is
	GID   int
	Own   bool
	Note  string
}

func (h *handover) variable() (string, error) {
	b, err := json.Marshal(h)
	return serverEnv + "=" + string(b), err
}

// duplicate gives a file of this process a high number, which children inherit.
func duplicate(fd int) (int, error) {
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD, lowest)
	if errors.Is(err, unix.EBADF) {
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("duplicate file %d: %w", fd, err)
	}
	return n, nil
}

// Server is a process that a command is started by.
type Server struct {
	h     handover
	conn  *os.File
	ended chan struct{}
}

// Serve tells whether this process was started as a server: then it returns it, and
// else nil. It is to be called early, once; then the environment is the user's.
func Serve() (*Server, error) {
	text, ok := os.LookupEnv(serverEnv)
	if !ok {
		return nil, nil
	}
	_ = os.Unsetenv(serverEnv)
	s := &Server{ended: make(chan struct{})}
	if err := json.Unmarshal([]byte(text), &s.h); err != nil {
		return nil, fmt.Errorf("%s is for strata alone: %w", serverEnv, err)
	}
	for _, fd := range append(s.h.Files[:], s.h.Conn) {
		if fd >= 0 {
			unix.CloseOnExec(fd)
		}
	}
	if err := unix.SetNonblock(s.h.Conn, true); err != nil {
		return nil, fmt.Errorf("%s is for strata alone: %w", serverEnv, err)
	}
	s.conn = os.NewFile(uintptr(s.h.Conn), "supervisor")
	return s, nil
}

// Note is what the supervisor was told in its Options.
func (s *Server) Note() string { return s.h.Note }

// Supervisor is the supervisor's process, as a pidfd, for others that are to last as long as the command, also when the server
// does not: it ends with the command. The caller closes it.
func (s *Server) Supervisor() (*os.File, error) {
	fd, err := unix.PidfdOpen(os.Getppid(), 0)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	return os.NewFile(uintptr(fd), "supervisor"), nil
}

// Ended is closed when the command has ended, or nobody wants it any more.
func (s *Server) Ended() <-chan struct{} { return s.ended }

// listen waits for the end of the connection.
func (s *Server) listen() {
	defer close(s.ended)
	for b := make([]byte, 1); ; {
		if _, err := s.conn.Read(b); err != nil {
			return
		}
	}
}
