package nar

import (
	"bufio"
	"errors"
	"io"
)

// Copy passes one archive from src to dst unmodified and checks it on the way.
// It takes exactly the archive's bytes from src (see the package comment) and
// returns how many it passed on. If the archive turns out to be invalid, the
// error is a *FormatError and the part before the fault has been written.
func Copy(dst io.Writer, src io.Reader) (int64, error) {
	r := NewReader(src)
	r.src.tee = bufio.NewWriterSize(dst, 64<<10)
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
