package binarycache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/fileindex"
	"github.com/strata-nix/strata/narinfo"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/trust"
)

// IndexState is what [Store.AddIndex] found or did.
type IndexState int

// The states of an object's file index.
const (
	IndexThere   IndexState = iota // there is one of the file that the narinfo names, signed by all of our keys
	IndexWritten                   // there is one now
	IndexOfWhole                   // there would be no use for one: the NAR can only be read as a whole
)

// AddIndex gives an object that is in the cache already a file index, signed by Keys, if it has none that is of
// use. For that the whole NAR is read, and compared with its narinfo.
func (s *Store) AddIndex(ctx context.Context, p storepath.Path) (IndexState, error) {
	return s.addIndex(ctx, p, s.o.Keys)
}

// SignIndex adds signatures to the file index of an object, if there is one that is of use, and tells whether it lacked some. An index that none of
// the trusted keys has signed is made anew of the NAR, so that nobody vouches for what somebody else has put there.
func (s *Store) SignIndex(ctx context.Context, p storepath.Path, trusted trust.Keys, keys ...trust.SecretKey) (bool, error) {
	old, err := s.NarIndex(ctx, p)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !old.VerifiedBy(trusted.WithSecret(keys...)) {
		state, err := s.addIndex(ctx, p, keys)
		return state == IndexWritten, err
	}
	if err := s.writable(ctx); err != nil {
		return false, err
	}
	data, added := old.Sign(keys...)
	if !added {
		return false, nil
	}
	return true, s.putIndex(ctx, p, data)
}

func (s *Store) addIndex(ctx context.Context, p storepath.Path, keys []trust.SecretKey) (IndexState, error) {
	if err := s.writable(ctx); err != nil {
		return IndexThere, err
	}
	ni, err := s.askInfo(ctx, p.HashPart())
	if err != nil {
		return IndexThere, err
	}
	if ni == nil || ni.Path != p {
		return IndexThere, &store.InvalidPathError{Path: s.o.Dir.Print(p)}
	}
	old, err := s.usableIndex(ctx, ni)
	if err != nil {
		return IndexThere, err
	}
	if old != nil {
		if _, lacks := old.Sign(keys...); !lacks {
			return IndexThere, nil
		}
	}
	seen, err := s.lookInto(ctx, ni)
	if errors.Is(err, errNotSeekable) {
		return IndexOfWhole, nil
	}
	if err != nil {
		return IndexThere, fmt.Errorf("making the file index of '%s' in '%s': %w", s.o.Dir.Print(p), s.o.URI, err)
	}
	data, err := indexFor(ni, seen).Encode(s.o.Dir, keys...)
	if err != nil {
		return IndexThere, err
	}
	if old != nil { // whoever has signed the same goes on vouching for it
		if made, err := fileindex.Parse(s.o.Dir, p.HashPart()+fileindex.Suffix, data); err == nil && made.Same(old) {
			data, _ = old.Sign(keys...)
		}
	}
	return IndexWritten, s.putIndex(ctx, p, data)
}

// usableIndex is the index that is there, nil if there is none, or it is about another file.
func (s *Store) usableIndex(ctx context.Context, ni *narinfo.NarInfo) (*fileindex.Signed, error) {
	old, err := s.NarIndex(ctx, ni.Path)
	if errors.Is(err, fs.ErrNotExist) || isBadFile(err) {
		return nil, nil //nolint:nilnil // see above
	}
	if err != nil {
		return nil, err
	}
	x, err := old.Decode()
	if err != nil || !old.Describes(&ni.PathInfo) || !s.rangeable(ni, x) {
		return nil, nil //nolint:nilerr,nilnil // see above
	}
	return old, nil
}

// errNotSeekable: a NAR cannot be entered in the middle.
var errNotSeekable = errors.New("the NAR can only be read as a whole")

// lookInto reads a NAR of the cache, if it can be entered, and compares it with its narinfo, of which it completes what is
// about the file.
func (s *Store) lookInto(ctx context.Context, ni *narinfo.NarInfo) (*seenNar, error) {
	frames, err := s.framesOf(ctx, ni)
	if err != nil {
		return nil, err
	}
	body, err := s.openNarFile(ctx, ni, objstore.GetOptions{})
	if err != nil {
		return nil, err
	}
	defer body.Close()
	file, whole := newSum(ni.NarSize), newSum(ni.NarSize)
	defer file.stop()
	defer whole.stop()
	src := io.TeeReader(&ctxReader{ctx, body}, file)
	plain := src
	if frames != nil {
		plain = &frameReader{ctx: ctx, r: src, frames: frames}
	}
	seen := &seenNar{frames: frames}
	if seen.contents, err = fileindex.Scan(io.TeeReader(plain, whole), nil); err != nil {
		return nil, err
	}
	if err := s.checkNar(ni, whole); err != nil {
		return nil, err
	}
	// What follows is the table of frames.
	if _, err := io.Copy(io.Discard, io.LimitReader(src, maxSeekTable)); err != nil {
		return nil, err
	}
	hash, size := file.sum()
	switch {
	case !ni.FileHash.IsZero() && ni.FileHash != hash:
		return nil, &store.HashMismatchError{What: fmt.Sprintf("of '%s'", ni.URL), Want: ni.FileHash, Got: hash}
	case ni.FileSize != 0 && ni.FileSize != size:
		return nil, &store.SizeMismatchError{What: fmt.Sprintf("of '%s'", ni.URL), Want: ni.FileSize, Got: size}
	}
	ni.FileHash, ni.FileSize = hash, size
	return seen, nil
}

// openNarFile opens the file that has a NAR, or a part of it.
func (s *Store) openNarFile(ctx context.Context, ni *narinfo.NarInfo, o objstore.GetOptions) (io.ReadCloser, error) {
	name, query, err := ni.RelativeURL()
	if err != nil {
		return nil, s.bad(ni.Path.HashPart()+infoSuffix, "", err)
	}
	o.Query = query
	body, object, err := s.objects.Get(ctx, name, o)
	if err != nil {
		return nil, s.failed("reading", name, err)
	}
	if object.ContentEncoding != "" && object.ContentEncoding != "identity" {
		return nil, errors.Join(errNotSeekable, body.Close())
	}
	return body, nil
}

// maxSeekTable bounds the bytes of a table of frames.
const maxSeekTable = 256 << 20

// framesOf finds the pieces of a compressed NAR that can be decompressed by themselves, as the table at its end
// says; nil if it is not compressed.
func (s *Store) framesOf(ctx context.Context, ni *narinfo.NarInfo) ([]compress.Frame, error) {
	switch compress.Method(ni.Compression) {
	case compress.None:
		return nil, nil
	case compress.Zstd:
	default:
		return nil, errNotSeekable
	}
	if ni.FileSize < compress.SeekTableFooter {
		return nil, errNotSeekable
	}
	end, err := s.tail(ctx, ni, compress.SeekTableFooter)
	if err != nil {
		return nil, err
	}
	size, ok := compress.SeekTableSize(end)
	if !ok || size > maxSeekTable || uint64(size) > ni.FileSize {
		return nil, errNotSeekable
	}
	table, err := s.tail(ctx, ni, size)
	if err != nil {
		return nil, err
	}
	frames, err := compress.ParseSeekTable(table)
	if err != nil || fileindex.CheckFrames(frames, ni.FileSize, ni.NarSize) != nil {
		return nil, errNotSeekable
	}
	return frames, nil
}

// tail reads the last bytes of a NAR's file.
func (s *Store) tail(ctx context.Context, ni *narinfo.NarInfo, size int64) ([]byte, error) {
	body, err := s.openNarFile(ctx, ni, objstore.GetOptions{Offset: int64(ni.FileSize) - size, Length: size})
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(body, size))
	if err == nil && n < size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, s.failed("reading", ni.URL, err)
	}
	return b.Bytes(), nil
}

// frameReader decompresses frame by frame, and fails if one is not as it should be.
type frameReader struct {
	ctx    context.Context //nolint:containedctx // of the one request that this is
	r      io.Reader
	frames []compress.Frame
	left   []byte
}

func (f *frameReader) Read(p []byte) (int, error) {
	if len(f.left) == 0 {
		if len(f.frames) == 0 {
			return 0, io.EOF
		}
		if err := f.next(f.frames[0]); err != nil {
			return 0, err
		}
		f.frames = f.frames[1:]
	}
	n := copy(p, f.left)
	f.left = f.left[n:]
	return n, nil
}

func (f *frameReader) next(frame compress.Frame) error {
	squeezed := make([]byte, frame.Size)
	if _, err := io.ReadFull(f.r, squeezed); err != nil {
		return early(err)
	}
	z, err := compress.NewReader(f.ctx, compress.Zstd, bytes.NewReader(squeezed))
	if err != nil {
		return err
	}
	defer z.Close()
	plain := make([]byte, frame.Plain+1)
	n, err := io.ReadFull(z, plain)
	if n == int(frame.Plain) && (errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)) {
		f.left = plain[:n]
		return nil
	}
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return err
	}
	return errors.New("a frame has not as many bytes as the table of frames says")
}
