package overlayfs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/crashpoint"
)

// TrashPrefix begins the names that a [Remover] gives to what it is about to
// delete. No store path has such a name. What a crash leaves under such names
// is deleted by [Remover.PurgeLeftovers].
const TrashPrefix = ".strata-trash-"

var (
	// ErrNotInUpper means that the upper has nothing under a name.
	ErrNotInUpper = errors.New("is not in the upper layer")
	// ErrInUse means that a process has its working directory or an open file
	// inside an object that is merged from both layers. Removing it now would
	// make the name ESTALE for everybody, so it was left as it was.
	ErrInUse = errors.New("is merged from two layers and in use by a process")
)

// Removal is what became of one name.
type Removal struct {
	Name string
	// Bytes is the disk space that was given back.
	Bytes int64
	// LowerShows says that a lower has the name and that it shows now, at the
	// latest after a refresh.
	LowerShows bool
	// Err is nil when the upper's copy is gone. [ErrNotInUpper] and [ErrInUse]
	// mean that nothing was changed.
	Err error
}

// Remover takes objects out of the upper layer of a mounted overlay, so that a
// lower's copy, if there is one, shows again and no whiteout stays.
//
// An object is first renamed away through the merged directory, which takes it
// out of everybody's sight in one step; then the whiteout that this leaves is
// unlinked in the upper; then the renamed tree is deleted. Processes that run
// from it or have files open are not disturbed, those with a working directory
// inside find it deleted. An object that is merged with a lower's cannot be
// renamed through the merged directory: it is renamed in the upper, and put
// back if it turns out that a process keeps the merged directory in use.
//
// An interruption between any two steps leaves the object in place, or a
// whiteout (see [Whiteouts]), or a leftover with [TrashPrefix]; both are
// repaired by [Remover.PurgeLeftovers] and [RemoveWhiteout].
//
// A Remover keeps the merged directory open: close it when the batch is done.
// It is not safe for concurrent use, and the caller sees to it that nobody
// adds the objects at the same time.
type Remover struct {
	info   MountInfo
	merged *os.File
	upper  *os.File
}

// NewRemover opens the overlay at merged, whose upper directory is upper.
func NewRemover(merged, upper string) (*Remover, error) {
	info, err := Visible(merged)
	if err != nil {
		return nil, err
	}
	want := Expected{Upper: upper, AllowMoreLowers: true, AllowRelative: true}
	if kind, detail := want.compare(info); kind != 0 || upper == "" {
		return nil, &MismatchError{Target: merged, Kind: WrongUpper, Expected: want, Found: info, Detail: detail}
	}
	r := &Remover{info: info}
	if r.merged, err = os.OpenFile(merged, unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		return nil, err
	}
	if r.upper, err = os.OpenFile(upper, os.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
		r.merged.Close()
		return nil, err
	}
	return r, nil
}

// Close lets go of the directories.
func (r *Remover) Close() error { return errors.Join(r.merged.Close(), r.upper.Close()) }

// Refresh is [Refresh] of the merged directory; due once after a batch.
func (r *Remover) Refresh(ctx context.Context) error { return Refresh(ctx, r.merged.Name()) }

// Remove removes the named objects, entries of the root of the upper, and
// returns one result per name. The caller refreshes afterwards; several
// batches can share that. The error is only for what ended the whole batch,
// such as ctx; objects that were not come to have it, too.
func (r *Remover) Remove(ctx context.Context, names ...string) ([]Removal, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	out := make([]Removal, len(names))
	trash := make([]string, len(names))
	for i, name := range names {
		out[i].Name, trash[i] = name, TrashPrefix+rand.Text()
	}
	if _, err := r.hideAll(ctx, out, trash); err != nil {
		return out, err
	}
	for i := range out {
		if trash[i] == "" || out[i].Err != nil {
			continue
		}
		if out[i].Bytes, out[i].Err = r.purge(ctx, trash[i]); out[i].Err != nil {
			out[i].Err = fmt.Errorf("delete %q, renamed to %q: %w", names[i], trash[i], out[i].Err)
		}
	}
	return out, ctx.Err()
}

// hideAll renames objects to the names in trash, of which it leaves those that
// something lies at now. It gives the indexes of those that were merged with a lower's.
func (r *Remover) hideAll(ctx context.Context, out []Removal, trash []string) (merged []int, err error) {
	for i := range out {
		if err := ctx.Err(); err != nil {
			for ; i < len(out); i++ {
				trash[i], out[i].Err = "", err
			}
			return nil, errors.Join(err, r.hideMerged(context.WithoutCancel(ctx), merged, out, trash))
		}
		var again bool
		trash[i], again, out[i].Err = r.hide(&out[i], trash[i])
		if again {
			merged = append(merged, i)
		}
	}
	return merged, r.hideMerged(ctx, merged, out, trash)
}

// hide renames one object away through the merged directory. It answers merged
// for one that has to be dealt with by hideMerged.
func (r *Remover) hide(res *Removal, to string) (trash string, merged bool, err error) {
	name := res.Name
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return "", false, fmt.Errorf("remove %q: %w", name, ErrBadPath)
	}
	fail := func(err error) (string, bool, error) {
		return "", false, fmt.Errorf("remove %q from upper %q: %w", name, r.upper.Name(), err)
	}
	path := filepath.Join(r.upper.Name(), name)
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fail(ErrNotInUpper)
	}
	if err != nil {
		return fail(err)
	}
	if fi.IsDir() {
		opaque, err := IsOpaque(path)
		if err != nil {
			return fail(err)
		}
		if !opaque && r.lowerHasDir(name) {
			return to, true, nil
		}
	} else if gone, err := r.dropWhiteout(name); gone || err != nil {
		res.LowerShows = true
		return "", false, err
	}
	err = r.rename(name, to)
	switch {
	case errors.Is(err, unix.EXDEV) && fi.IsDir():
		return to, true, nil
	case err != nil:
		return fail(err)
	}
	crashpoint.Reached("overlayfs: object renamed, its whiteout is there")
	res.LowerShows, err = r.dropWhiteout(name)
	return to, false, err
}

// rename renames through the merged directory. Whoever may not write to a directory may
// not move it to another one, not even its owner, so it is made writable if need be.
func (r *Remover) rename(name, to string) error {
	at := int(r.merged.Fd())
	err := unix.Renameat(at, name, at, to)
	if errors.Is(err, unix.EACCES) && strings.Contains(to, "/") && makeWritable(at, name) == nil {
		err = unix.Renameat(at, name, at, to)
	}
	return err
}

// dropWhiteout unlinks the whiteout of a name in the upper, if there is one.
func (r *Remover) dropWhiteout(name string) (bool, error) {
	err := RemoveWhiteout(filepath.Join(r.upper.Name(), name))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNotWhiteout) {
		return false, nil
	}
	return err == nil, err
}

// lowerHasDir reports whether a directory of that name in the upper would
// merge with one in a lower.
func (r *Remover) lowerHasDir(name string) bool {
	for _, lower := range r.info.Lowers {
		path := filepath.Join(lower, name)
		fi, err := os.Lstat(path)
		if err != nil {
			continue
		}
		return fi.IsDir() // a file, also a whiteout, hides what is below
	}
	return false
}

// PurgeLeftovers deletes what interrupted removals and refreshes left behind
// and returns the bytes that this gave back. Nobody else may be removing from
// the same upper meanwhile.
func (r *Remover) PurgeLeftovers(ctx context.Context) (int64, error) {
	var names []string
	err := eachEntry(ctx, r.upper.Name(), func(e fs.DirEntry) error {
		if strings.HasPrefix(e.Name(), TrashPrefix) || strings.HasPrefix(e.Name(), RefreshPrefix) {
			names = append(names, e.Name())
		}
		return nil
	})
	var freed int64
	for _, name := range names {
		n, perr := r.purge(ctx, name)
		freed += n
		err = errors.Join(err, perr)
	}
	return freed, err
}

// purge deletes a renamed object: through the merged directory, so that the
// kernel knows, or, if it would merge with something there, in the upper.
func (r *Remover) purge(ctx context.Context, trash string) (int64, error) {
	path := filepath.Join(r.upper.Name(), trash)
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	through := r.merged
	if fi.IsDir() {
		opaque, err := IsOpaque(path)
		if err != nil {
			return 0, err
		}
		if !opaque {
			through = r.upper
		}
	}
	return removeTree(ctx, int(through.Fd()), trash)
}
