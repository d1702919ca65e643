package nar

import (
	"bufio"
	"errors"
	"io"
	"sync"
)

// Copy passes one archive from src to dst unmodified and checks it on the way.
// It takes exactly the archive's bytes from src (see the package comment) and
// returns how many it passed on. If the archive turns out to be invalid, the
// error is a *FormatError and the part before the fault has been written.
func Copy(dst io.Writer, src io.Reader) (int64, error) {
	c := copiers.Get().(*copier)
	defer c.release()
	r := &c.r
	r.src.init(src)
	r.src.tee = c.tee
	c.tee.Reset(dst)
	var err error
	for err == nil {
		err = r.next()
	}
	if err == io.EOF {
		err = nil
	}
	var we *writeError
	if errors.As(err, &we) {
		err = we.err
	} else if ferr := r.src.tee.Flush(); err == nil {
		err = ferr
	}
	return r.src.off - int64(r.src.tee.Buffered()), err
}

// A copier is what Copy needs besides its arguments. It is used again, as most
// archives are much smaller than it.
type copier struct {
	r   Reader
	tee *bufio.Writer
}

var copiers = sync.Pool{New: func() any { return &copier{tee: bufio.NewWriterSize(nil, 64<<10)} }}

func (c *copier) release() {
	c.r = Reader{}
	c.tee.Reset(nil)
	copiers.Put(c)
}
