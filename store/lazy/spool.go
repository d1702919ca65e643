package lazy

import (
	"context"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// spool is a NAR, or a part of one, in a file without a name, while it comes and afterwards. One
// writes; any number read.
type spool struct {
	f        *os.File
	from, to int64 // what is kept of the NAR

	mu   sync.Mutex
	at   int64         // up to here it has come
	more chan struct{} // closed when at rises, or err is there
	err  error         // nothing more comes
}

// newSpool makes one for the bytes of a NAR from from up to before to. It is in memory, or in an unlinked file
// in dir.
func newSpool(dir string, from, to int64) (*spool, error) {
	var fd int
	var err error
	if dir == "" {
		fd, err = unix.MemfdCreate("strata-lazy", unix.MFD_CLOEXEC)
	} else {
		fd, err = unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	}
	if err != nil {
		return nil, os.NewSyscallError("making an anonymous file", err)
	}
	return &spool{f: os.NewFile(uintptr(fd), "spool"), from: from, to: to, more: make(chan struct{})}, nil
}

// Write takes what comes next.
func (s *spool) Write(p []byte) (int, error) {
	s.mu.Lock()
	at := s.at
	s.mu.Unlock()
	first, end := max(at, s.from), min(at+int64(len(p)), s.to)
	if first < end {
		if _, err := s.f.WriteAt(p[first-at:end-at], first-s.from); err != nil {
			return 0, err
		}
	}
	s.mu.Lock()
	s.at += int64(len(p))
	s.wake()
	s.mu.Unlock()
	return len(p), nil
}

// wake lets those look who wait. s.mu is held.
func (s *spool) wake() {
	close(s.more)
	s.more = make(chan struct{})
}

// restart begins anew: another origin gives the same.
func (s *spool) restart() {
	s.mu.Lock()
	s.at = 0
	s.mu.Unlock()
}

// end says that nothing more comes.
func (s *spool) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.wake()
}

// readAt reads from the NAR, and waits until it has come. Readers that are under way keep the file.
func (s *spool) readAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < s.from || off+int64(len(p)) > s.to {
		return 0, fmt.Errorf("bytes %d to %d of a NAR are not kept", off, off+int64(len(p)))
	}
	for {
		s.mu.Lock()
		at, err, more := s.at, s.err, s.more
		s.mu.Unlock()
		switch {
		case err != nil:
			return 0, err
		case at >= off+int64(len(p)):
			return s.f.ReadAt(p, off-s.from)
		}
		select {
		case <-more:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}
