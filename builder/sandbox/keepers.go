package sandbox

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A keeperProcess is a keeper as it is seen by the process that has started it. It
// serves one builder at a time.
type keeperProcess struct {
	*os.Process
	conn *os.File
	once bool        // it is of no use to another builder
	rest *time.Timer // until it is not kept any longer
}

// idleTime is how long a keeper is kept for the next builder. Only one that follows
// soon is in a hurry.
const idleTime = time.Second

// idle are keepers that have nothing to do. They are in our own namespaces, and
// hold no file, directory or mount.
var idle struct {
	sync.Mutex
	keepers []*keeperProcess
}

// engage gives a job to a keeper. One with namespaces of its own is for an ordinary
// user's sandbox, and does not serve again: it would hold on to all that is mounted.
func engage(namespaces bool, files [jobFiles]*os.File) (*keeperProcess, error) {
	for !namespaces {
		k := anyIdle()
		if k == nil {
			break
		}
		if sendJob(k.conn, files) == nil {
			return k, nil
		}
		_, _ = k.dismiss() // somebody has killed it
	}
	k, err := hire(namespaces)
	if err != nil {
		return nil, err
	}
	if err := sendJob(k.conn, files); err != nil {
		_, derr := k.dismiss()
		return nil, errors.Join(err, derr)
	}
	return k, nil
}

func anyIdle() *keeperProcess {
	idle.Lock()
	defer idle.Unlock()
	n := len(idle.keepers) - 1
	if n < 0 {
		return nil
	}
	k := idle.keepers[n]
	idle.keepers = idle.keepers[:n]
	k.rest.Stop()
	return k
}

// release keeps a keeper for the next builder, for a while.
func (k *keeperProcess) release() {
	idle.Lock()
	defer idle.Unlock()
	idle.keepers = append(idle.keepers, k)
	k.rest = time.AfterFunc(idleTime, func() {
		idle.Lock()
		i := slices.Index(idle.keepers, k)
		if i >= 0 {
			idle.keepers = slices.Delete(idle.keepers, i, i+1)
		}
		idle.Unlock()
		if i >= 0 {
			_, _ = k.dismiss() // nobody needs to know how it ends
		}
	})
}

// dismiss ends a keeper, and waits until it has killed what it kept.
func (k *keeperProcess) dismiss() (*os.ProcessState, error) {
	k.conn.Close()
	state, err := k.Wait()
	if err != nil {
		return nil, fmt.Errorf("wait for the keeper: %w", err)
	}
	return state, nil
}

// hire starts a keeper.
func hire(namespaces bool) (*keeperProcess, error) {
	conn, theirs, err := connection()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		conn.Close()
		return nil, err
	}
	defer null.Close()
	attr := &syscall.SysProcAttr{Setsid: true} // ^C at a terminal is for us, who then kills
	if namespaces {
		attr.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	proc, err := os.StartProcess(stageProgram(), []string{keeperName}, &os.ProcAttr{
		Dir: "/", Env: keeperEnv, Files: []*os.File{null, null, os.Stderr, keeperConn: theirs}, Sys: attr,
	})
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &keeperProcess{Process: proc, conn: conn, once: namespaces}, nil
}

// connection makes the two ends of one between us and a keeper.
func connection() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	// Without this a read of it would take a thread.
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "keeper"), os.NewFile(uintptr(fds[1]), "connection"), nil
}
