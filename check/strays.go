package check

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/storepath"
)

// straysAtOnce is how many names are deleted together.
const straysAtOnce = 256

// mendStrays deletes what is not registered, as a garbage collection would, after another
// look while nobody can be making it.
func mendStrays(ctx context.Context, r *repairs, fs []*Finding) {
	own := slices.DeleteFunc(slices.Clone(fs), func(f *Finding) bool {
		if f.layer != 0 {
			r.settle(ctx, f, errOfLower)
		}
		return f.layer != 0
	})
	for chunk := range slices.Chunk(own, straysAtOnce) {
		if ctx.Err() != nil {
			return
		}
		if err := r.locked(ctx, func() error { r.deleteStrays(ctx, chunk); return nil }); err != nil {
			return
		}
	}
}

func (r *repairs) deleteStrays(ctx context.Context, fs []*Finding) {
	var delete []*Finding
	for _, f := range fs {
		if f.name == f.path.Base() && r.Tools.Lock != nil {
			unlock, err := r.Tools.Lock(ctx, f.path)
			if err == nil && unlock == nil {
				err = errors.New("somebody is making it")
			}
			if err != nil {
				r.settle(ctx, f, err)
				continue
			}
			defer unlock()
		}
		delete = append(delete, f)
	}
	r.readTemporaryRoots()
	lines := r.linesOf(ctx, namesOf(delete))
	var still []*Finding
	for i, f := range delete {
		if r.confirms(f, &lines[i]) {
			still = append(still, f)
		} else {
			r.settle(ctx, f, nil)
		}
	}
	if len(still) == 0 {
		return
	}
	err := errNothingKnown
	if r.Tools.Remove != nil {
		err = r.Tools.Remove(ctx, namesOf(still))
	}
	crashpoint.Reached("check: strays deleted")
	for _, f := range still {
		r.settle(ctx, f, err)
	}
}

// confirms tells whether its class still finds a finding.
func (r *repairs) confirms(f *Finding, l *line) bool {
	again := false
	r.class(f.Code).line(r.examination, l, func(g *Finding) { again = again || g.layer == f.layer })
	return again
}

func namesOf(fs []*Finding) []string {
	out := make([]string, len(fs))
	for i, f := range fs {
		out[i] = f.name
	}
	return out
}

// mendDuplicates deletes objects of the upper that a lower has too, if that one is
// whole.
func mendDuplicates(ctx context.Context, r *repairs, fs []*Finding) {
	for chunk := range slices.Chunk(fs, straysAtOnce) {
		if ctx.Err() != nil {
			return
		}
		var remove []*Finding
		lines := r.linesOf(ctx, namesOf(chunk))
		for i, f := range chunk {
			switch good, err := r.lowerIsWhole(ctx, f, &lines[i]); {
			case err != nil:
				r.settle(ctx, f, err)
			case good:
				remove = append(remove, f)
			default:
				r.settle(ctx, f, nil)
			}
		}
		if len(remove) == 0 {
			continue
		}
		err := r.leanOn(ctx, remove...)
		if err == nil {
			err = errNothingKnown
			if r.Tools.Remove != nil {
				err = r.Tools.Remove(ctx, namesOf(remove))
			}
		}
		crashpoint.Reached("check: duplicates deleted")
		for _, f := range remove {
			r.settle(ctx, f, err)
		}
	}
}

// leanOn tells that the upper is about to need what lower layers have of findings.
func (r *repairs) leanOn(ctx context.Context, fs ...*Finding) error {
	if r.Tools.Lean == nil {
		return nil
	}
	paths := make([]storepath.Path, len(fs))
	for i, f := range fs {
		paths[i] = f.path
	}
	return r.Tools.Lean(ctx, paths)
}

// lowerIsWhole tells whether it still is a duplicate, and of something with the right
// contents.
func (r *repairs) lowerIsWhole(ctx context.Context, f *Finding, l *line) (bool, error) {
	if !r.confirms(f, l) {
		return false, nil
	}
	info, err := r.Layers[0].info(ctx, f.path)
	if err != nil || info == nil {
		return false, err
	}
	i := l.shown()
	if !r.holds(ctx, r.layerFile(i, f.path), info) {
		return false, fmt.Errorf("the object of %s is damaged, so the upper's is needed", r.Layers[i].Name)
	}
	return true, nil
}

// mendWhiteouts deletes whiteouts, so that what lower layers have shows.
func mendWhiteouts(ctx context.Context, r *repairs, fs []*Finding) {
	var gone []*Finding
	for _, f := range fs {
		err := overlayfs.RemoveWhiteout(filepath.Join(r.Layers[0].Dir, f.name))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, overlayfs.ErrNotWhiteout) {
			err = nil
		}
		crashpoint.Reached("check: whiteout deleted")
		if err != nil {
			r.settle(ctx, f, err)
			continue
		}
		gone = append(gone, f)
	}
	var err error
	if r.mounted {
		err = r.refresh(ctx)
	}
	for _, f := range gone {
		r.settle(ctx, f, err)
	}
}

// mendViews refreshes the mount once.
func mendViews(ctx context.Context, r *repairs, fs []*Finding) {
	err := r.refresh(ctx)
	for _, f := range fs {
		failed := err
		if _, statErr := os.Lstat(filepath.Join(r.RealDir, f.name)); failed == nil && statErr != nil {
			failed = fmt.Errorf("it does not show after a refresh, as a process uses what was there before; it will when that has ended: %w", statErr)
		}
		r.settle(ctx, f, failed)
	}
}

func mendLeftLock(_ context.Context, r *repairs, f *Finding) error {
	dir := r.RealDir
	if !r.mounted {
		dir = r.Layers[0].Dir
	}
	return deleteUnheld(filepath.Join(dir, f.name))
}
