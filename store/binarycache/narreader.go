package binarycache

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/narinfo"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/store"
)

// narReader gives a NAR as its narinfo promises it, or an error. No more bytes come
// out than the narinfo says, whatever the compressed file would grow to.
type narReader struct {
	ctx   context.Context //nolint:containedctx // of the one request that this is
	s     *Store
	info  *narinfo.NarInfo
	name  string // of the file
	local bool   // it is from local-nar-cache

	body io.ReadCloser // the file
	file *fileReader   // what counts the file's bytes; nil if it is the NAR itself
	dec  io.ReadCloser // the decompressor; nil if there is none
	src  io.Reader     // the NAR, not checked

	n    uint64          // bytes given out, and those about to be
	hash hash.Hash       // of them; nil: the caller's affair
	copy objstore.Staged // for local-nar-cache; nil: none
	done error           // io.EOF, or what went wrong
}

// fileSlack is by how many bytes a compressed file whose size is not known may be
// larger than the NAR, besides an eighth of it: there are streams that never end and
// hold nothing.
const fileSlack = 1 << 20

// decompress sets src.
func (r *narReader) decompress(method compress.Method) (err error) {
	if method == compress.None {
		r.src = r.body
		return nil
	}
	r.file = &fileReader{src: r.body}
	if !r.info.FileHash.IsZero() {
		r.file.hash = nixhash.SHA256.New()
	}
	r.file.limit = r.info.FileSize
	if r.file.limit == 0 {
		r.file.limit = r.info.NarSize + r.info.NarSize/8 + fileSlack
	}
	r.dec, err = compress.NewReader(r.ctx, method, r.file)
	r.src = r.dec
	return err
}

// Read implements io.Reader.
func (r *narReader) Read(p []byte) (int, error) {
	if r.done == nil && r.ctx.Err() != nil {
		r.done = context.Cause(r.ctx)
	}
	if r.done != nil || len(p) == 0 {
		return 0, r.done
	}
	if left := r.info.NarSize - r.n; uint64(len(p)) > left {
		p = p[:left]
	}
	n, err := r.src.Read(p)
	r.n += uint64(n)
	if r.hash != nil {
		r.hash.Write(p[:n])
	}
	r.tee(p[:n])
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		r.done = r.readError(err)
	case r.n == r.info.NarSize:
		// The last bytes: all must be right before anybody gets them.
		r.done = r.finish(err != nil)
	case err != nil:
		r.done = r.broken(fmt.Sprintf("the NAR ends after %d bytes, its narinfo says %d", r.n, r.info.NarSize), io.ErrUnexpectedEOF)
	}
	if r.done != nil && !errors.Is(r.done, io.EOF) {
		return 0, r.done
	}
	return n, nil
}

// finish checks what can be checked when as many bytes have come as were promised,
// and gives io.EOF if all is well. ended tells that the source has ended, too.
func (r *narReader) finish(ended bool) error {
	if !ended {
		var more [1]byte
		n, err := io.ReadFull(r.src, more[:])
		if n > 0 {
			return r.broken(fmt.Sprintf("the NAR is longer than the %d bytes that its narinfo says", r.info.NarSize), nil)
		}
		if !errors.Is(err, io.EOF) {
			return r.readError(err)
		}
	}
	if r.hash != nil {
		if got := nixhash.Sum(nixhash.SHA256, r.hash); got != r.info.NarHash {
			return r.broken("", &store.HashMismatchError{What: "of the NAR", Want: r.info.NarHash, Got: got})
		}
	}
	if r.file != nil {
		if err := r.checkFile(); err != nil {
			return err
		}
	}
	r.commit()
	return io.EOF
}

// checkFile compares the compressed file, which has been read to its end.
func (r *narReader) checkFile() error {
	if r.info.FileSize > 0 && r.file.n != r.info.FileSize {
		return r.broken(fmt.Sprintf("has %d bytes, its narinfo says %d", r.file.n, r.info.FileSize), nil)
	}
	if r.file.hash == nil {
		return nil
	}
	if got := nixhash.Sum(nixhash.SHA256, r.file.hash); got != r.info.FileHash {
		return r.broken("", &store.HashMismatchError{What: "of the file", Want: r.info.FileHash, Got: got})
	}
	return nil
}

// readError says what a failure of the source means.
func (r *narReader) readError(err error) error {
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	if e, ok := errors.AsType[*compress.Error](err); ok {
		return r.broken("the NAR cannot be read", e)
	}
	if errors.Is(err, errTooLong) {
		if r.info.FileSize == 0 {
			return r.broken(fmt.Sprintf("has more than %d bytes, for a NAR of %d", r.file.limit, r.info.NarSize), nil)
		}
		return r.broken(fmt.Sprintf("has more bytes than the %d that its narinfo says", r.info.FileSize), nil)
	}
	return r.s.failed("reading", r.name, err)
}

// broken tells what is wrong with the file. What is known of the object is
// forgotten: the cache may have got another one since.
func (r *narReader) broken(why string, err error) error {
	if r.local {
		_ = r.s.nars.Delete(context.WithoutCancel(r.ctx), r.name) // it is read from the cache next time
		return &FileError{Cache: r.s.nars.Path(), File: r.name, Why: why, Err: err}
	}
	r.s.forget(r.ctx, r.info.Path)
	return r.s.bad(r.name, why, err)
}

// keep begins a copy for local-nar-cache.
func (r *narReader) keep() {
	if r.s.nars != nil {
		r.copy, _ = r.s.nars.Stage(r.ctx, ".") // without it there is no copy
	}
}

// tee adds to the copy. One that cannot be written is given up.
func (r *narReader) tee(p []byte) {
	if r.copy == nil {
		return
	}
	if _, err := r.copy.Write(p); err != nil {
		r.dropCopy(err)
	}
}

func (r *narReader) commit() {
	if r.copy == nil {
		return
	}
	err := r.copy.Commit(r.ctx, localName(r.info), objstore.PutOptions{IfAbsent: true})
	r.dropCopy(err)
}

func (r *narReader) dropCopy(err error) {
	if r.copy == nil {
		return
	}
	if err != nil {
		activity.Warnf(r.ctx, "a NAR is not kept in '%s': %v", r.s.nars.Path(), err)
	}
	r.copy.Abort()
	r.copy = nil
}

// Close ends the transfer, wherever it is.
func (r *narReader) Close() error {
	r.dropCopy(nil)
	if r.done == nil {
		r.done = errClosed
	}
	// The file first: a decompressor may be waiting for it.
	err := r.body.Close()
	if r.dec != nil {
		err = errors.Join(err, r.dec.Close())
	}
	if errors.Is(r.done, io.EOF) {
		return err
	}
	return nil // it is known already that this did not go well, or nobody wanted to know
}

var errClosed = errors.New("the NAR has been closed")

// fileReader counts and hashes a compressed file.
type fileReader struct {
	src   io.Reader
	hash  hash.Hash // nil: not wanted
	limit uint64    // bytes
	n     uint64
}

var errTooLong = errors.New("too long")

func (f *fileReader) Read(p []byte) (int, error) {
	n, err := f.src.Read(p)
	f.n += uint64(n)
	if f.hash != nil {
		f.hash.Write(p[:n])
	}
	if f.n > f.limit {
		return 0, errTooLong
	}
	return n, err
}
