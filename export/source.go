package export

import (
	"bufio"
	"fmt"
	"io"
	"os"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Source gives the objects of an export with their infos first, as stores want
// them. It is a [store.ObjectSource].
type Source struct {
	r     *Reader
	spool *os.File
	out   *bufio.Writer
}

// NewSource reads an export from r, as NewReader does, and keeps one NAR at a
// time in spool, an empty file that is open for reading and writing and belongs
// to the caller.
func NewSource(r io.Reader, dir storepath.Dir, spool *os.File) *Source {
	return &Source{r: NewReader(r, dir), spool: spool, out: bufio.NewWriterSize(nil, 256<<10)}
}

// Next is that of [store.ObjectSource].
func (s *Source) Next() (*store.PathInfo, io.Reader, error) {
	if err := s.spool.Truncate(0); err != nil {
		return nil, nil, fmt.Errorf("spooling an import: %w", err)
	}
	s.out.Reset(&spoolWriter{f: s.spool})
	info, err := s.r.Next(s.out)
	if err != nil {
		return nil, nil, err
	}
	if err := s.out.Flush(); err != nil {
		return nil, nil, err
	}
	return info, io.NewSectionReader(s.spool, 0, int64(info.NarSize)), nil
}

// spoolWriter writes a file from its start, wherever its offset is.
type spoolWriter struct {
	f   *os.File
	off int64
}

func (w *spoolWriter) Write(p []byte) (int, error) {
	n, err := w.f.WriteAt(p, w.off)
	w.off += int64(n)
	if err != nil {
		return n, fmt.Errorf("spooling an import: %w", err)
	}
	return n, nil
}
