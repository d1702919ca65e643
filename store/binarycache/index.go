package binarycache

import (
	"context"
	"fmt"
	"io"
	"io/fs"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/fileindex"
	"github.com/strata-nix/strata/narinfo"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/storepath"
)

const typeIndex = "application/octet-stream"

// writeIndex writes the file index of an object. One that cannot be made, of an object of 10^7 files for
// instance, is left out: the object is good all the same.
func (s *Store) writeIndex(ctx context.Context, ni *narinfo.NarInfo, seen *seenNar) error {
	data, err := indexFor(ni, seen).Encode(s.o.Dir, s.o.Keys...)
	if err != nil {
		activity.Warnf(ctx, "no file index of '%s': %v", s.o.Dir.Print(ni.Path), err)
		return nil
	}
	return s.putIndex(ctx, ni.Path, data)
}

func (s *Store) putIndex(ctx context.Context, p storepath.Path, data []byte) error {
	return s.writeFile(ctx, p.HashPart()+fileindex.Suffix, data, "", objstore.PutOptions{ContentType: typeIndex})
}

// indexFor is the index of an object of which the NAR was seen.
func indexFor(ni *narinfo.NarInfo, seen *seenNar) *fileindex.Index {
	return &fileindex.Index{
		Header: fileindex.Header{
			Path: ni.Path, NarHash: ni.NarHash, NarSize: ni.NarSize,
			URL: ni.URL, Compression: ni.Compression, FileHash: ni.FileHash, FileSize: ni.FileSize,
		},
		Contents: seen.contents, Frames: seen.frames,
	}
}

// NarIndex gives the file index that lies beside a path's narinfo; fs.ErrNotExist says that there is none.
// Whoever wants to believe it looks at its signatures, and what object it describes.
func (s *Store) NarIndex(ctx context.Context, p storepath.Path) (*fileindex.Signed, error) {
	name := p.HashPart() + fileindex.Suffix
	data, err := s.readFile(ctx, name, "", fileindex.MaxSize)
	if missing(err) {
		return nil, fmt.Errorf("file index of '%s' in '%s': %w", p, s.o.URI, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	x, err := fileindex.Parse(s.o.Dir, name, data)
	if err != nil {
		return nil, s.bad(name, "", err)
	}
	if x.Path != p {
		return nil, s.bad(name, fmt.Sprintf("is about another path, '%s'", x.Path), nil)
	}
	return x, nil
}

// partReader gives some bytes of what a longer stream decompresses to.
type partReader struct {
	io.Reader
	close func() error
}

func (r *partReader) Close() error { return r.close() }
