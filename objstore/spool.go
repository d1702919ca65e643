package objstore

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"sync"
)

// A Spool keeps bytes until their number is known, so that they can be read as
// often as is needed: in memory, or in a file without a name when they are many.
// It must be closed. It is for one goroutine at a time.
type Spool struct {
	dir  string // for the file; "": where temporary files are
	mem  *bytes.Buffer
	file *os.File
	size int64
}

// spoolBuffers are for spools that stay in memory.
var spoolBuffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// NewSpool makes an empty spool, whose file, if it needs one, is in dir; "": in
// the directory for temporary files.
func NewSpool(dir string) *Spool {
	return &Spool{dir: dir, mem: spoolBuffers.Get().(*bytes.Buffer)}
}

// Write implements io.Writer.
func (s *Spool) Write(p []byte) (n int, err error) {
	if s.file == nil && s.mem.Len()+len(p) > stagedInMemory {
		if err := s.spill(); err != nil {
			return 0, fmt.Errorf("temporary file: %w", err)
		}
	}
	if s.file == nil {
		n, _ = s.mem.Write(p)
	} else {
		n, err = s.file.Write(p)
	}
	s.size += int64(n)
	return n, err
}

// spill moves what is in memory to a file.
func (s *Spool) spill() (err error) {
	if s.file, err = tempFile(s.dir); err != nil {
		return err
	}
	_, err = s.file.Write(s.mem.Bytes())
	return err
}

// Size is how many bytes were written.
func (s *Spool) Size() int64 { return s.size }

// Reader reads all from the beginning. It is an io.ReadSeeker and io.ReaderAt, and
// good until the spool is closed or written to.
func (s *Spool) Reader() (*io.SectionReader, error) {
	if s.file != nil {
		return io.NewSectionReader(s.file, 0, s.size), nil
	}
	return io.NewSectionReader(bytes.NewReader(s.mem.Bytes()), 0, s.size), nil
}

// Close forgets everything.
func (s *Spool) Close() {
	if s.file != nil {
		_ = s.file.Close() // was only read since the last write that was looked at
		s.file = nil
	}
	if s.mem != nil {
		s.mem.Reset()
		spoolBuffers.Put(s.mem)
		s.mem = nil
	}
}

// Sized gives what is left of body as something of known size that can be read
// again, by several at once: as it is if it can be, or else through a spool. size is what the
// size has to be, or Unknown. done gives back what that took.
func Sized(ctx context.Context, body io.Reader, size int64) (r *io.SectionReader, done func(), err error) {
	if r, err = section(body); err != nil {
		return nil, nil, err
	}
	if r != nil {
		return r, func() {}, checkSize(r.Size(), size)
	}
	spool := NewSpool("")
	n, err := io.Copy(spool, &contextReader{ctx, body})
	if err == nil {
		err = checkSize(n, size)
	}
	if err == nil {
		r, err = spool.Reader()
	}
	if err != nil {
		spool.Close()
		return nil, nil, err
	}
	return r, spool.Close, nil
}

// checkSize compares the size of a body with what was said.
func checkSize(got, said int64) error {
	if said >= 0 && got != said {
		return fmt.Errorf("%w: %d bytes instead of %d", ErrSize, got, said)
	}
	return nil
}

// section gives what is left of a body that can be read anywhere, nil if it cannot.
func section(body io.Reader) (*io.SectionReader, error) {
	r, ok := body.(interface {
		io.ReaderAt
		io.Seeker
	})
	if !ok {
		return nil, nil
	}
	at, err := r.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, nil // a pipe, for instance
	}
	end, err := r.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	_, err = r.Seek(at, io.SeekStart)
	return io.NewSectionReader(r, at, max(end-at, 0)), err
}

// contextReader ends with the context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}
