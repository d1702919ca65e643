// Package check compares what a store says with what is there.
//
// It works on parts that a store hands to it and knows no kind of store.
package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Parts is what a store hands over to be verified.
type Parts struct {
	Dir      storepath.Dir
	RealDir  string
	StateDir string
	// Infos lists what is valid, in any order.
	Infos func(ctx context.Context) iter.Seq2[*store.PathInfo, error]
	// Referrers as in store.ReferrerQuerier, of this store alone.
	Referrers func(ctx context.Context, paths []storepath.Path) ([][]storepath.Path, error)
	// Invalidate makes paths invalid whose objects are gone.
	Invalidate func(ctx context.Context, paths []storepath.Path) error
	// Update corrects hash and size of paths that had none.
	Update func(ctx context.Context, infos []*store.PathInfo) error
	// Repair makes an object anew; nil if the store knows no way.
	Repair func(ctx context.Context, info *store.PathInfo) error
}

// Verify does what `nix-store --verify` does: it forgets paths whose objects have
// disappeared, unless others refer to them, and with CheckContents compares
// every object with its hash. It tells what it finds in the activity log, in
// Nix's words, and goes on after a finding. damaged is whether anything is still
// wrong at the end; err is for what kept it from looking.
func Verify(ctx context.Context, p Parts, o store.VerifyOptions) (damaged bool, err error) {
	activity.Logf(ctx, activity.Info, "reading the Nix store...")
	lock, err := flock.Open(filepath.Join(p.StateDir, "gc.lock"))
	if err != nil {
		return false, fmt.Errorf("verifying the store: %w", err)
	}
	defer func() { _ = lock.Close() }()
	err = lock.Lock(ctx, flock.Shared, func() {
		activity.Logf(ctx, activity.Info, "waiting for the big garbage collector lock...")
	})
	if err != nil {
		return false, fmt.Errorf("verifying the store: %w", err)
	}
	v := &verification{Parts: p, opts: o}
	activity.Logf(ctx, activity.Info, "checking path existence...")
	if err := v.existence(ctx); err != nil {
		return v.damaged, err
	}
	if o.CheckContents {
		if err := v.links(ctx); err != nil {
			return v.damaged, err
		}
		activity.Logf(ctx, activity.Info, "checking store hashes...")
		if err := v.contents(ctx); err != nil {
			return v.damaged, err
		}
	}
	return v.damaged, nil
}

type verification struct {
	Parts
	opts    store.VerifyOptions
	damaged bool
}

func (v *verification) realPath(p storepath.Path) string {
	return filepath.Join(v.RealDir, p.Base())
}

// existence looks whether each valid path has its object.
func (v *verification) existence(ctx context.Context) error {
	missing := map[storepath.Path]*store.PathInfo{}
	for info, err := range v.Infos(ctx) {
		if err != nil {
			return err
		}
		_, err = os.Lstat(v.realPath(info.Path))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			missing[info.Path] = info
		case err != nil:
			return fmt.Errorf("looking for path '%s': %w", v.Dir.Print(info.Path), err)
		}
	}
	return v.forget(ctx, missing)
}

// forget drops the missing paths that nothing refers to but missing paths that
// are dropped too, and reports the others.
func (v *verification) forget(ctx context.Context, missing map[storepath.Path]*store.PathInfo) error {
	if len(missing) == 0 {
		return nil
	}
	paths := make([]storepath.Path, 0, len(missing))
	for p := range missing {
		paths = append(paths, p)
	}
	storepath.SortUnique(paths)
	referrers, err := v.Referrers(ctx, paths)
	if err != nil {
		return err
	}
	// needed: referred to, perhaps by way of others that are missing, by what is there.
	needed := storepath.Set{}
	var need func(p storepath.Path)
	need = func(p storepath.Path) {
		if needed.Add(p) {
			for _, r := range missing[p].References {
				if missing[r] != nil {
					need(r)
				}
			}
		}
	}
	for i, p := range paths {
		for _, r := range referrers[i] {
			if missing[r] == nil {
				need(p)
			}
		}
	}
	var drop []storepath.Path
	for _, p := range paths {
		if !needed.Has(p) {
			activity.Logf(ctx, activity.Info, "path '%s' disappeared, removing from database...", v.Dir.Print(p))
			drop = append(drop, p)
			continue
		}
		activity.Logf(ctx, activity.Error, "path '%s' disappeared, but it still has valid referrers!", v.Dir.Print(p))
		v.mend(ctx, missing[p])
	}
	return v.Invalidate(ctx, drop)
}

// mend repairs a path if that is wanted, and remembers what is still wrong.
func (v *verification) mend(ctx context.Context, info *store.PathInfo) {
	if !v.opts.Repair {
		v.damaged = true
		return
	}
	err := fmt.Errorf("cannot repair path '%s'", v.Dir.Print(info.Path))
	if v.Repair != nil {
		err = v.Repair(ctx, info)
	}
	if err != nil {
		activity.Warnf(ctx, "%v", err)
		v.damaged = true
	}
}

// links compares the files of .links, which are named by their hash.
func (v *verification) links(ctx context.Context) error {
	activity.Logf(ctx, activity.Info, "checking link hashes...")
	dir := filepath.Join(v.RealDir, ".links")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("checking link hashes: %w", err)
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		link := filepath.Join(dir, e.Name())
		h, _, err := hashNAR(ctx, link)
		if err != nil {
			return fmt.Errorf("checking link hashes: %w", err)
		}
		if got := h.Digest(nixhash.Nix32); got != e.Name() {
			activity.Logf(ctx, activity.Error, "link '%s' was modified! expected hash %s, got '%s'", link, e.Name(), got)
			if !v.opts.Repair {
				v.damaged = true
				continue
			}
			if err := os.Remove(link); err != nil {
				return fmt.Errorf("removing a modified link: %w", err)
			}
			activity.Logf(ctx, activity.Info, "removed link '%s'", link)
		}
	}
	return nil
}

// contents hashes every object.
func (v *verification) contents(ctx context.Context) error {
	for info, err := range v.Infos(ctx) {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := v.object(ctx, info); err != nil {
			activity.Logf(ctx, activity.Error, "error: %v", err)
			v.damaged = true
		}
	}
	return nil
}

func (v *verification) object(ctx context.Context, info *store.PathInfo) error {
	path := v.Dir.Print(info.Path)
	activity.Logf(ctx, activity.Talkative, "checking contents of '%s'", path)
	got, size, err := hashNAR(ctx, v.realPath(info.Path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // gone, which has been reported, or collected meanwhile
	}
	if err != nil {
		return err
	}
	if got != info.NarHash {
		activity.Logf(ctx, activity.Error, "path '%s' was modified! expected hash '%s', got '%s'",
			path, info.NarHash.Text(nixhash.Nix32), got.Text(nixhash.Nix32))
		v.mend(ctx, info)
		return nil
	}
	if info.NarSize == 0 {
		activity.Logf(ctx, activity.Info, "updating size field on '%s' to %d", path, size)
		fixed := info.Clone()
		fixed.NarSize = size
		return v.Update(ctx, []*store.PathInfo{fixed})
	}
	return nil
}

// hashNAR hashes the NAR of a tree and counts its bytes.
func hashNAR(ctx context.Context, path string) (nixhash.Hash, uint64, error) {
	h := nixhash.SHA256.New()
	var n countWriter
	err := nar.Dump(ctx, io.MultiWriter(h, &n), path)
	return nixhash.Sum(nixhash.SHA256, h), uint64(n), err
}

type countWriter uint64

func (c *countWriter) Write(p []byte) (int, error) {
	*c += countWriter(len(p))
	return len(p), nil
}
