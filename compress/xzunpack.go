package compress

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// xzProgramFrom is how many compressed bytes make it worth the program's start.
// It is a variable for tests.
var xzProgramFrom int64 = 512 << 10

// openXZ decodes here what is small, and whatever there is no faster program for.
func openXZ(d *reader) (io.Reader, error) {
	var head bytes.Buffer
	_, err := io.CopyN(&head, d.src, xzProgramFrom)
	all := io.MultiReader(&head, d.src) // which fails again, if it has
	if err == nil {
		if xz := xzProgram(); xz.fast {
			if u, err := startXZUnpacker(d, xz.path, all); err == nil {
				return u, nil
			} // without processes left, say, it is done here
		}
	}
	return newXZReader(bufio.NewReaderSize(all, inputBuffer)), nil
}

// An xzUnpacker is a child that decompresses. It has no goroutine: who reads from it
// also brings it what it is to read, in turn, and waits when neither is possible.
// So nothing is read of the source by a Read that has returned.
type xzUnpacker struct {
	child   *child
	src     io.Reader
	buf     []byte
	pending []byte // what is in buf and was not given yet
	fed     bool   // it was given everything, or takes nothing any more
}

// The program keeps to what this package keeps to itself: one format, little memory,
// and one thread, whose code is older and better looked at than that for several.
var unpackArgs = []string{"--decompress", "--stdout", "--format=xz", "--threads=1", fmt.Sprintf("--memlimit-decompress=%d", MaxWindow+(8<<20))}

func startXZUnpacker(d *reader, program string, src io.Reader) (*xzUnpacker, error) {
	c, err := startChild(d.src.ctx, program, unpackArgs)
	if err != nil {
		return nil, err
	}
	u := &xzUnpacker{child: c, src: src, buf: make([]byte, inputBuffer)}
	for _, f := range []*os.File{c.stdin, c.stdout} {
		_ = control(f, func(fd uintptr) { err = errors.Join(err, unix.SetNonblock(int(fd), true)) })
	}
	if err != nil {
		u.close()
		return nil, err
	}
	d.release = u.close
	return u, nil
}

func (u *xzUnpacker) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		switch n, err := try(u.child.stdout, unix.Read, p); {
		case n > 0:
			return n, nil
		case err == nil:
			return 0, u.outcome()
		case err != unix.EAGAIN:
			return 0, err
		}
		if moved, err := u.feed(); err != nil {
			return 0, err
		} else if !moved {
			u.await()
		}
	}
}

// feed gives the program what it takes at once, and says whether that was something.
func (u *xzUnpacker) feed() (moved bool, err error) {
	if u.fed {
		return false, nil
	}
	if len(u.pending) == 0 {
		n, err := u.src.Read(u.buf)
		if u.pending = u.buf[:n]; n == 0 && err != nil {
			u.fed = true
			u.child.stdin.Close()
			if err == io.EOF {
				return true, nil
			}
			return false, err
		}
	}
	n, err := try(u.child.stdin, unix.Write, u.pending)
	switch {
	case err == nil:
		u.pending = u.pending[n:]
	case err == unix.EAGAIN:
		return false, nil
	default: // it is gone, and how it ended says more than a broken pipe
		u.fed = true
		u.child.stdin.Close()
	}
	return true, nil
}

// doze is for how long the program is left alone before it is waited for: it moves
// 8 KiB at a time, and waking up for each would take as long as half of unpacking.
const doze = time.Millisecond

// await waits until the program has something, or takes something. When it is
// killed it does neither any more, which is an end of waiting, too.
func (u *xzUnpacker) await() {
	time.Sleep(doze)
	fds := make([]unix.PollFd, 0, 2)
	add := func(f *os.File, events int16) {
		_ = control(f, func(fd uintptr) { fds = append(fds, unix.PollFd{Fd: int32(fd), Events: events}) })
	}
	add(u.child.stdout, unix.POLLIN)
	if !u.fed {
		add(u.child.stdin, unix.POLLOUT)
	}
	_, _ = unix.Poll(fds, -1) // the next attempts meet what is wrong
}

// try reads or writes once, without waiting.
func try(f *os.File, do func(int, []byte) (int, error), p []byte) (n int, err error) {
	if cerr := control(f, func(fd uintptr) {
		for {
			if n, err = do(int(fd), p); err != unix.EINTR {
				return
			}
		}
	}); cerr != nil {
		return 0, cerr
	}
	return n, err
}

func control(f *os.File, do func(fd uintptr)) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return conn.Control(do)
}

// outcome is what the end of the output means.
func (u *xzUnpacker) outcome() error {
	early := !u.fed || len(u.pending) > 0
	u.fed = true
	u.child.stdin.Close()
	err := u.child.wait()
	if err == nil {
		if early {
			return fmt.Errorf("%s ended before what it was to read", u.child.cmd.Path)
		}
		return io.EOF
	}
	said := string(u.child.stderr.kept)
	for text, meaning := range xzFaults {
		if strings.Contains(said, text) {
			return meaning
		}
	}
	return err
}

// xzFaults are messages of the program that are about what it reads.
var xzFaults = map[string]error{
	"Unexpected end of input":    io.ErrUnexpectedEOF,
	"Memory usage limit reached": ErrMemory,
	"Compressed data is corrupt": ErrCorrupt,
	"File format not recognized": ErrCorrupt,
	"Unsupported":                ErrCorrupt, // a filter, or a kind of checksum
}

func (u *xzUnpacker) close() {
	u.child.kill()
	u.child.stdin.Close()
	_ = u.child.wait() // was killed
}
