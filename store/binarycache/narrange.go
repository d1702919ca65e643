package binarycache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/fileindex"
	"github.com/strata-nix/strata/narinfo"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/store"
)

// OpenNarRange opens size bytes of the NAR that an index describes, from off on, if this cache has that very
// file, and gives parts of it: otherwise the error is a store.ErrUnsupported. Nothing is compared with
// anything; a reader that ends too early fails. It is for one goroutine.
func (s *Store) OpenNarRange(ctx context.Context, x *fileindex.Index, off, size int64) (io.ReadCloser, error) {
	if off < 0 || size <= 0 || uint64(off) > x.NarSize || uint64(size) > x.NarSize-uint64(off) {
		return nil, fmt.Errorf("no %d bytes at %d in the NAR of '%s'", size, off, x.Path)
	}
	if s.whole.recent() {
		return nil, s.onlyWhole(x)
	}
	info, err := s.infoFor(ctx, x)
	if err != nil {
		return nil, err
	}
	method := compress.Method(info.Compression)
	from, length, skip := off, size, int64(0)
	if method != compress.None {
		from, length, skip = x.InFile(off, size)
	}
	body, err := s.openRange(ctx, x, info, from, length)
	if err != nil {
		return nil, err
	}
	if method == compress.None {
		return &partReader{&exactly{r: body, left: size}, body.Close}, nil
	}
	plain, err := compress.NewReader(ctx, method, body)
	if err != nil {
		return nil, errors.Join(err, body.Close())
	}
	part := &exactly{r: plain, skip: skip, left: size}
	return &partReader{part, func() error { return errors.Join(body.Close(), plain.Close()) }}, nil
}

// infoFor finds the narinfo of the file that an index is about. One that is remembered may be of a file that was
// there before.
func (s *Store) infoFor(ctx context.Context, x *fileindex.Index) (*narinfo.NarInfo, error) {
	ctx = store.WithAnswerAge(ctx, store.AnswerAge{})
	info, err := s.narInfo(ctx, x.Path)
	if err == nil && !s.rangeable(info, x) && info.URL != x.URL {
		s.forget(ctx, x.Path)
		info, err = s.narInfo(ctx, x.Path)
	}
	if err == nil && !s.rangeable(info, x) {
		return nil, s.onlyWhole(x)
	}
	return info, err
}

// rangeable tells whether the cache has the file that an index is about, in a form that can be
// entered.
func (s *Store) rangeable(info *narinfo.NarInfo, x *fileindex.Index) bool {
	switch {
	case info.NarHash != x.NarHash, info.URL != x.URL, info.Compression != x.Compression:
		return false
	case !info.FileHash.IsZero() && info.FileHash != x.FileHash:
		return false
	}
	return compress.Method(info.Compression) == compress.None || compress.Method(info.Compression) == compress.Zstd && len(x.Frames) > 0
}

func (s *Store) onlyWhole(x *fileindex.Index) error {
	return &store.UnsupportedError{Op: fmt.Sprintf("giving parts of the NAR of '%s'", s.o.Dir.Print(x.Path)), Store: s.o.URI}
}

// openRange opens a part of the file with a NAR.
func (s *Store) openRange(ctx context.Context, x *fileindex.Index, info *narinfo.NarInfo, from, length int64) (io.ReadCloser, error) {
	name, query, err := info.RelativeURL()
	if err != nil {
		return nil, s.bad(x.Path.HashPart()+infoSuffix, "", err)
	}
	body, object, err := s.objects.Get(ctx, name, objstore.GetOptions{Offset: from, Length: length, OnlyPart: true, Query: query})
	switch {
	case errors.Is(err, objstore.ErrNoRanges):
		s.whole.note()
		return nil, s.onlyWhole(x)
	case missing(err):
		s.forget(ctx, x.Path)
		return nil, s.bad(name, "", ErrGone)
	case err != nil:
		return nil, s.failed("reading", name, err)
	case object.ContentEncoding != "" && object.ContentEncoding != "identity":
		return nil, errors.Join(s.onlyWhole(x), body.Close())
	}
	return body, nil
}

// exactly gives left bytes after skip others, or fails.
type exactly struct {
	r          io.Reader
	skip, left int64
}

func (e *exactly) Read(p []byte) (int, error) {
	if e.skip > 0 {
		n, err := io.CopyN(io.Discard, e.r, e.skip)
		if e.skip -= n; err != nil {
			return 0, early(err)
		}
	}
	if e.left == 0 {
		return 0, io.EOF
	}
	n, err := e.r.Read(p[:min(int64(len(p)), e.left)])
	e.left -= int64(n)
	if e.left > 0 && err != nil {
		err = early(err)
	}
	return n, err
}

func early(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// wholeOnly remembers that a server gives no parts of files.
type wholeOnly struct{ since atomic.Int64 } // Unix time in nanoseconds; 0: it does, as far as is known

// wholePause is for how long that is not tried again.
const wholePause = 10 * time.Minute

func (w *wholeOnly) note() { w.since.Store(time.Now().UnixNano()) }

func (w *wholeOnly) recent() bool {
	since := w.since.Load()
	return since != 0 && time.Since(time.Unix(0, since)) < wholePause
}
