package export

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/wire"
)

// Writer makes an export. It is not for several goroutines.
type Writer struct {
	dir storepath.Dir
	w   *wire.Writer
	err error
}

// NewWriter writes to w, buffered until Close.
func NewWriter(w io.Writer, dir storepath.Dir) *Writer {
	return &Writer{dir: dir, w: wire.NewWriter(w)}
}

// Add writes an object: what nar writes, and the info. Objects that it refers to
// must have been added before, or be where the export is going. If the NAR is
// not the one of the info, the error is a *[ChangedError] and the export is
// useless; every further call fails.
func (e *Writer) Add(info *store.PathInfo, nar func(io.Writer) error) error {
	if e.err == nil {
		e.err = e.add(info, nar)
	}
	return e.err
}

func (e *Writer) add(info *store.PathInfo, nar func(io.Writer) error) error {
	e.w.Uint64(objectFollows)
	hash := sha256.New()
	if err := nar(io.MultiWriter(hash, e.w)); err != nil {
		return fmt.Errorf("exporting path '%s': %w", e.dir.Print(info.Path), err)
	}
	if got := nixhash.Sum(nixhash.SHA256, hash); !info.NarHash.IsZero() && got != info.NarHash {
		return &ChangedError{Path: e.dir.Print(info.Path), Want: info.NarHash, Got: got}
	}
	e.w.Uint64(magic)
	e.w.Text(e.dir.Print(info.Path))
	e.w.Strings(e.dir.PrintAll(info.References))
	if info.Deriver.IsZero() {
		e.w.Text("")
	} else {
		e.w.Text(e.dir.Print(info.Deriver))
	}
	e.w.Uint64(0) // no signature
	return e.w.Err()
}

// Close ends the export and flushes it. It does not close what is below.
func (e *Writer) Close() error {
	if e.err != nil {
		return e.err
	}
	e.w.Uint64(end)
	e.err = errors.New("the export has ended")
	return e.w.Flush()
}

// Write exports paths, which must be valid, each once and references first. What
// they refer to is exported only where it is among them.
func Write(ctx context.Context, w io.Writer, s store.Store, paths []storepath.Path) error {
	src, err := store.Need[store.NarSource](s, "narFromPath")
	if err != nil {
		return err
	}
	paths = storepath.SortUnique(append([]storepath.Path(nil), paths...))
	infos, err := s.PathInfos(ctx, paths)
	if err != nil {
		return err
	}
	for i, info := range infos {
		if info == nil {
			return &store.InvalidPathError{Path: s.Dir().Print(paths[i])}
		}
	}
	if infos, err = store.SortByReferences(s.Dir(), infos); err != nil {
		return err
	}
	e := NewWriter(w, s.Dir())
	for _, info := range infos {
		if err := e.Add(info, func(w io.Writer) error { return src.NarFromPath(ctx, info.Path, w) }); err != nil {
			return err
		}
	}
	return e.Close()
}
