package binarycache

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/fileindex"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/narinfo"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/trust"
)

// narDir is where NARs are.
const narDir = "nar"

// pack reads a NAR, compares it with its info, and puts it into the cache,
// compressed, with its listing. The narinfo that it gives is signed and not
// written, so that nobody sees the object yet.
func (s *Store) pack(ctx context.Context, info *store.PathInfo, open func(context.Context) (io.ReadCloser, error), repair bool) (*narinfo.NarInfo, error) {
	if err := s.checkAddress(info); err != nil {
		return nil, err
	}
	staged, err := objstore.Stage(ctx, s.objects, narDir)
	if err != nil {
		return nil, s.failed("writing to", narDir, err)
	}
	defer staged.Abort()
	ni := &narinfo.NarInfo{PathInfo: *info.Clone(), Compression: string(s.o.Compression)}
	seen, err := s.fill(ctx, ni, open, staged)
	if err != nil {
		return nil, err
	}
	ni.URL = narDir + "/" + ni.FileHash.Digest(nixhash.Nix32) + ".nar" + suffix(s.o.Compression)
	if err := s.describe(ctx, ni, seen); err != nil {
		return nil, err
	}
	err = staged.Commit(ctx, ni.URL, objstore.PutOptions{Size: int64(ni.FileSize), ContentType: typeNAR, IfAbsent: !repair})
	if err != nil {
		return nil, s.failed("writing", ni.URL, err)
	}
	activity.Logf(ctx, activity.Talkative, "copying path '%s' (%d bytes, compressed to %d) to binary cache", s.o.Dir.Print(info.Path), ni.NarSize, ni.FileSize)
	return ni, s.sign(ni)
}

// largePack is the size from which on a NAR is large for a compressor, in bytes.
const largePack = 1 << 20

// fill opens a NAR when it is its turn, so that nobody keeps a connection open to
// wait, and lets go of it before anything is uploaded.
func (s *Store) fill(ctx context.Context, ni *narinfo.NarInfo, open func(context.Context) (io.ReadCloser, error), out io.Writer) (_ *seenNar, err error) {
	places := []chan struct{}{s.packing}
	if s.o.Compression != compress.None && (ni.NarSize == 0 || ni.NarSize >= largePack) {
		places = []chan struct{}{s.large, s.packing}
	}
	for _, place := range places {
		select {
		case place <- struct{}{}:
			defer func() { <-place }()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	archive, err := open(store.Verifying(ctx))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, archive.Close()) }()
	return s.squeezeNar(ctx, ni, archive, out)
}

// suffix ends the name of a compressed NAR, as Nix does it: there is none for
// gzip, which keeps web servers from taking it for an encoding of theirs.
func suffix(m compress.Method) string {
	if m == compress.Gzip {
		return ""
	}
	return m.Suffix()
}

// checkAddress refuses a content-addressed object whose path does not follow from
// its address.
func (s *Store) checkAddress(info *store.PathInfo) error {
	if !info.CA.IsZero() && !info.IsContentAddressed(s.o.Dir) {
		return fmt.Errorf("%w: path '%s' does not follow from its content address '%s'", store.ErrMismatch, s.o.Dir.Print(info.Path), info.CA)
	}
	// Of other addresses the contents need another hash than that of the NAR.
	if info.CA.Method == storepath.Recursive && info.CA.Hash.Algorithm() == nixhash.SHA256 &&
		!storepath.WithoutSelf(info.Path, info.References).Self && info.CA.Hash != info.NarHash {
		return fmt.Errorf("%w: path '%s' has content address '%s', and another NAR hash", store.ErrMismatch, s.o.Dir.Print(info.Path), info.CA)
	}
	return nil
}

// seenNar is what is known of a NAR that went through our hands.
type seenNar struct {
	listing  *nar.Listing        // nil: not wanted
	contents *fileindex.Contents // nil: not wanted
	frames   []compress.Frame    // that it was compressed in, if it can be entered there
}

// squeezeNar writes a NAR to out, compressed, fills in what is known then, and
// looks into the NAR if that is wanted.
func (s *Store) squeezeNar(ctx context.Context, ni *narinfo.NarInfo, archive io.Reader, out io.Writer) (_ *seenNar, err error) {
	file := newSum(ni.NarSize)
	defer file.stop()
	whole, sink := file, io.Writer(teeWriter{out, file}) // without compression the file is the NAR
	var c io.WriteCloser
	var seekable *compress.Seekable
	if s.o.Compression != compress.None {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		if c, seekable, err = s.compressor(ctx, sink); err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				cancel()
				_ = c.Close() // fails because it is canceled
			}
		}()
		whole = newSum(ni.NarSize)
		defer whole.stop()
		sink = teeWriter{c, whole}
	}
	seen, err := s.readNar(ctx, archive, sink, seekable)
	if err != nil {
		return nil, err
	}
	if err := s.checkNar(ni, whole); err != nil {
		return nil, err
	}
	if c != nil {
		if err := c.Close(); err != nil {
			return nil, err
		}
	}
	if seekable != nil {
		seen.frames = seekable.Frames()
	}
	ni.FileHash, ni.FileSize = file.sum()
	return seen, nil
}

// compressor makes what compresses a NAR; seekable is the same if it can be cut, or nil.
func (s *Store) compressor(ctx context.Context, w io.Writer) (c io.WriteCloser, seekable *compress.Seekable, err error) {
	o := compress.Options{Level: s.o.level(), Parallel: s.o.ParallelCompression}
	if s.o.Seekable {
		seekable, err = compress.NewSeekable(ctx, w, o)
		return seekable, seekable, err
	}
	c, err = compress.NewWriter(ctx, s.o.Compression, w, o)
	return c, nil, err
}

// readNar passes an archive on, and takes exactly its bytes.
func (s *Store) readNar(ctx context.Context, archive io.Reader, sink io.Writer, seekable *compress.Seekable) (_ *seenNar, err error) {
	archive = &ctxReader{ctx, archive}
	seen := &seenNar{}
	listed := s.o.WriteListing || s.o.IndexDebugInfo
	if !listed && !s.o.WriteIndex && seekable == nil {
		_, err := nar.Copy(sink, archive)
		return seen, err
	}
	b := bufio.NewWriterSize(sink, sumSize)
	archive = io.TeeReader(archive, b)
	if !s.o.WriteIndex && seekable == nil {
		seen.listing, err = nar.List(archive)
	} else {
		var cut func(int64)
		if seekable != nil {
			cut = seekable.Cut
		}
		if seen.contents, err = fileindex.Scan(archive, cut); err == nil && listed {
			seen.listing = seen.contents.Listing()
		}
	}
	if err != nil {
		return nil, err
	}
	return seen, b.Flush()
}

// checkNar compares a NAR with what its info promised, and notes what it did not
// know.
func (s *Store) checkNar(ni *narinfo.NarInfo, whole *sum) error {
	what := fmt.Sprintf("importing path '%s'", s.o.Dir.Print(ni.Path))
	h, n := whole.sum()
	if ni.NarSize != 0 && ni.NarSize != n {
		return &store.SizeMismatchError{What: what, Want: ni.NarSize, Got: n}
	}
	if h != ni.NarHash {
		return &store.HashMismatchError{What: what, Want: ni.NarHash, Got: h}
	}
	ni.NarSize = n
	return nil
}

// sign adds the signatures of our keys.
func (s *Store) sign(ni *narinfo.NarInfo) error {
	if len(s.o.Keys) == 0 {
		return nil
	}
	return trust.Sign(&ni.PathInfo, s.o.Dir, s.o.Keys...)
}

// ctxReader ends with the context.
type ctxReader struct {
	ctx context.Context //nolint:containedctx // of the one request that this is
	src io.Reader
}

func (r *ctxReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.src.Read(p)
}
