package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// launch is the way from the keeper to a builder that has been executed in a sandbox. Files are
// numbers in it: an os.File would start the machinery that waits for many.
type launch struct {
	*keeper
	status   int    // a socket on which entry sends events
	info     stream // what bwrap says of its child
	said     stream // what bwrap complains of
	word     int    // a byte lets entry become the builder
	block    int    // a byte tells bwrap that ids are mapped
	loader   *loader
	children []int // files of the child, closed when it has them
}

// launch returns the number of the builder, a child of the keeper's.
func (k *keeper) launch() (int, error) {
	if k.root == nil {
		return k.launchOpen()
	}
	l := &launch{keeper: k, status: -1, info: stream{fd: -1}, said: stream{fd: -1}, word: -1, block: -1}
	defer l.close()
	first, err := l.fork()
	if err != nil {
		return 0, err
	}
	builder, err := l.guide(first)
	if errors.Is(err, io.EOF) || errors.Is(err, unix.EPIPE) { // it died without a report
		k.killAll()
		err = &SetupError{Step: "start bubblewrap", Err: complaint(l.said.rest())}
	}
	return builder, err
}

// fork starts bwrap.
func (l *launch) fork() (int, error) {
	files, err := l.files()
	defer func() {
		for _, fd := range l.children {
			unix.Close(fd)
		}
	}()
	if err != nil {
		return 0, err
	}
	sys := &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Credential: l.s.credential()}
	if l.s.HasCgroup {
		sys.UseCgroupFD, sys.CgroupFD = true, l.job[jobCgroup]
	}
	argv := l.s.bwrapArgs(l.root.cover, append(l.loader.command(), entryName))
	pid, err := syscall.ForkExec(l.s.Bwrap, argv, &syscall.ProcAttr{Dir: "/", Env: entryEnv, Files: files, Sys: sys})
	if err != nil {
		return 0, &SetupError{Step: "execute " + l.s.Bwrap, Err: err}
	}
	return pid, nil
}

// files makes what the child is started with: see the list beside entrySpecFD.
func (l *launch) files() ([]uintptr, error) {
	open := func(name string, flags int) (int, error) {
		fd, err := unix.Open(name, flags|unix.O_CLOEXEC, 0)
		if err == nil {
			l.children = append(l.children, fd)
		}
		return fd, err
	}
	null, err := open(os.DevNull, unix.O_RDWR)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	self, err := open("/proc/self/exe", unix.O_PATH)
	if err != nil {
		return nil, fmt.Errorf("open the running program: %w", err)
	}
	pipe := func(ours, theirs int) (fds [2]int) {
		if err == nil {
			err = unix.Pipe2(fds[:], unix.O_CLOEXEC)
		}
		if err == nil {
			l.children = append(l.children, fds[theirs])
		}
		return fds
	}
	const reading, writing = 0, 1
	info, said := pipe(reading, writing), pipe(reading, writing)
	word, block := pipe(writing, reading), pipe(writing, reading)
	if err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	status, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	l.children = append(l.children, status[writing])
	l.status, l.info.fd, l.said.fd, l.word, l.block = status[reading], info[reading], said[reading], word[writing], block[writing]
	files := make([]uintptr, bwrapBlock+1)
	for fd, file := range map[int]int{
		0: null, 1: said[writing], 2: said[writing],
		entrySpecFD: l.job[jobBuilder], entryStatus: status[writing], entryGo: word[reading], entryOutput: l.job[jobOutput], entrySelf: self,
		bwrapInfo: info[writing], bwrapBlock: block[reading],
	} {
		files[fd] = uintptr(file)
	}
	if l.loader, err = findLoader(); err != nil || l.loader == nil {
		return files, err
	}
	for _, name := range append([]string{l.loader.interpreter}, l.loader.dirs...) {
		fd, err := open(name, unix.O_RDONLY)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", name, err)
		}
		files = append(files, uintptr(fd))
	}
	return files, nil
}

// close closes our ends.
func (l *launch) close() {
	for _, fd := range []int{l.status, l.info.fd, l.said.fd, l.word, l.block} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// guide sees the child through to the execution of the builder.
func (l *launch) guide(first int) (builder int, err error) {
	// bwrap writes before it does anything that can fail later.
	text, err := l.info.until(l.keeper, '}')
	if err != nil {
		return 0, err
	}
	if builder, err = bwrapChild(text); err != nil {
		return 0, &SetupError{Step: "understand bubblewrap", Err: err}
	}
	if l.s.Count > 1 {
		if err := l.s.mapRange(builder); err != nil {
			return 0, &SetupError{Step: "map the range of user ids", Err: err}
		}
		if _, err := unix.Write(l.block, []byte{1}); err != nil {
			return 0, err
		}
	}
	if err := l.hear(); err != nil {
		return 0, err
	}
	for _, m := range l.late {
		if err := l.root.show(m); err != nil {
			return 0, err
		}
	}
	if err := relieve(first); err != nil {
		return 0, &SetupError{Step: "take the builder over from bubblewrap", Err: err}
	}
	if _, err := unix.Write(l.word, []byte{1}); err != nil {
		return 0, err
	}
	// The end of the status without a report is that of entry, which is the builder now.
	if err := l.hear(); !errors.Is(err, io.EOF) {
		return 0, err
	}
	return builder, nil
}

// hear waits for what entry says: that it is ready, nothing any more (io.EOF), or
// what went wrong.
func (l *launch) hear() error {
	for {
		ready, err := l.poll(l.status, -1)
		if err != nil {
			return err
		}
		if !ready {
			continue
		}
		message := make([]byte, maxMessage)
		n, err := unix.Read(l.status, message)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECONNRESET), err == nil && n == 0:
			return io.EOF
		case err != nil:
			return err
		}
		var said event
		if err := unpack(message[:n], &said); err != nil {
			return fmt.Errorf("understand the last step before the builder: %w", err)
		}
		if said.kind == builderFailed {
			return &said.report
		}
		return nil
	}
}

// relieve ends the part of bwrap that waits outside for the builder, so that he
// becomes a child of the keeper, who then learns how he really ended: bwrap would make
// an exit status even of a signal.
func relieve(monitor int) error {
	if err := unix.Kill(monitor, unix.SIGKILL); err != nil {
		return fmt.Errorf("kill: %w", err)
	}
	return waitFor(monitor)
}

// A stream is the reading end of a pipe from a child.
type stream struct {
	fd   int
	read []byte // and not yet taken
}

// until waits for text up to and with a byte. It ends with the keeper's orders.
func (s *stream) until(k *keeper, end byte) ([]byte, error) {
	for {
		if i := bytes.IndexByte(s.read, end); i >= 0 {
			text := s.read[:i+1]
			s.read = s.read[i+1:]
			return text, nil
		}
		ready, err := k.poll(s.fd, -1)
		if err != nil {
			return nil, err
		}
		if !ready {
			continue
		}
		if err := s.more(); err != nil {
			return nil, err
		}
	}
}

// more reads once.
func (s *stream) more() error {
	buf := make([]byte, 4<<10)
	n, err := unix.Read(s.fd, buf)
	switch {
	case errors.Is(err, unix.EINTR):
		return nil
	case err != nil:
		return err
	case n == 0:
		return io.EOF
	}
	s.read = append(s.read, buf[:n]...)
	return nil
}

// rest is all that there is, when nobody can write any more.
func (s *stream) rest() []byte {
	for s.more() == nil {
	}
	return s.read
}
