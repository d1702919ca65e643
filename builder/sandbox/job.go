package sandbox

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A job is the files that a keeper gets for a builder, by their numbers in its
// process.
type job [jobFiles]int

const (
	jobSpec    = iota // a keeperSpec
	jobBuilder        // a builderSpec, for who becomes the builder
	jobOutput         // where the builder writes to
	jobCgroup         // the directory of the control group, or /dev/null
	jobFiles
)

// close closes what is still open.
func (j *job) close() {
	for i := range j {
		j.closeFile(i)
	}
}

func (j *job) closeFile(i int) {
	if j[i] >= 0 {
		unix.Close(j[i])
	}
	j[i] = -1
}

// nextJob waits for one.
func nextJob() (job, error) {
	message, rights := make([]byte, 1), make([]byte, unix.CmsgSpace(4*jobFiles))
	for {
		n, used, _, _, err := unix.Recvmsg(keeperConn, message, rights, unix.MSG_CMSG_CLOEXEC)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return job{}, err
		case n == 0:
			return job{}, errKilled
		case used == 0: // an order about a builder who has ended meanwhile
			continue
		}
		return parseJob(rights[:used])
	}
}

func parseJob(rights []byte) (j job, err error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return j, err
	}
	if len(messages) != 1 {
		return j, fmt.Errorf("a job with %d control messages", len(messages))
	}
	files, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return j, err
	}
	if copy(j[:], files) != jobFiles {
		return j, fmt.Errorf("a job with %d files", len(files))
	}
	return j, nil
}

// sendJob gives a keeper a job. It does not wait.
func sendJob(conn *os.File, files [jobFiles]*os.File) error {
	fds := make([]int, jobFiles)
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	c, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := c.Control(func(fd uintptr) {
		serr = unix.Sendmsg(int(fd), []byte{1}, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
	}); err != nil {
		return err
	}
	if serr != nil {
		return fmt.Errorf("sendmsg: %w", serr)
	}
	return nil
}
