package cacheserver

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/store"
)

// object is a valid path whose NAR is wanted.
type object struct {
	st   store.Store
	info *store.PathInfo
	full string // its path, for messages
	file string // where its files are, "" if only the store can give them
}

// object finds out how to get at one. It reads nothing yet.
func (s *Server) object(info *store.PathInfo) *object {
	o := &object{st: s.o.Store, info: info, full: s.o.Store.Dir().Print(info.Path)}
	if d, ok := store.As[store.Directory](o.st); ok {
		// Of a daemon's store it is only supposed where its files are.
		file := filepath.Join(d.RealDir(), info.Path.Base())
		if _, err := os.Lstat(file); err == nil {
			o.file = file
		}
	}
	return o
}

// writeTo writes the whole NAR, which has the promised size unless there is an
// error.
func (o *object) writeTo(ctx context.Context, w io.Writer) error {
	exact := &exactWriter{w: w, left: o.info.NarSize}
	var err error
	switch source, ok := store.As[store.NarSource](o.st); {
	case o.file != "":
		err = nar.Dump(ctx, exact, o.file)
	case ok:
		err = source.NarFromPath(ctx, o.info.Path, exact)
	default:
		err = o.copyTo(ctx, exact)
	}
	if err == nil && exact.left > 0 {
		err = o.short(int64(o.info.NarSize - exact.left))
	}
	return err
}

func (o *object) copyTo(ctx context.Context, w io.Writer) error {
	r, err := store.OpenNar(ctx, o.st, o.info.Path)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.CopyBuffer(w, r, make([]byte, 128<<10))
	return err
}

// openAt begins to give the NAR from one of its bytes on. Whoever calls it closes
// the reader.
func (o *object) openAt(ctx context.Context, offset int64) (io.ReadCloser, error) {
	if o.file != "" {
		ctx, cancel := context.WithCancel(ctx)
		pr, pw := io.Pipe()
		p := &piped{PipeReader: pr, cancel: cancel, done: make(chan struct{})}
		go func() {
			defer close(p.done)
			pw.CloseWithError(nar.DumpRange(ctx, pw, o.file, offset, int64(o.info.NarSize)))
		}()
		return p, nil
	}
	r, err := store.OpenNar(ctx, o.st, o.info.Path)
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, r, offset); err != nil {
		_ = r.Close()
		return nil, fmt.Errorf("reading the NAR of '%s' up to byte %d: %w", o.full, offset, err)
	}
	return r, nil
}

// piped is the reading end of what a goroutine writes. Closing it waits for that.
type piped struct {
	*io.PipeReader
	cancel context.CancelFunc
	done   chan struct{}
}

// Close ends the writer.
func (p *piped) Close() error {
	p.cancel()
	err := p.PipeReader.Close()
	<-p.done
	return err
}

// exactWriter refuses more bytes than were promised, before any of them goes out.
type exactWriter struct {
	w    io.Writer
	left uint64
}

// Write passes on what was promised.
func (e *exactWriter) Write(p []byte) (int, error) {
	if uint64(len(p)) > e.left {
		return 0, fmt.Errorf("%w: a NAR is %d bytes longer than it should be, or more", store.ErrMismatch, uint64(len(p))-e.left)
	}
	n, err := e.w.Write(p)
	e.left -= uint64(n)
	return n, err
}
