package pivot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Lower is a lower store, old or new.
type Lower struct {
	Name  string
	Store store.Querier
	// Dir is where its objects are files.
	Dir string
}

// Roots are gc roots. They need not be valid.
type Roots struct {
	// Links are those that lie in files, by the absolute paths of the links that lead to
	// the store path itself.
	Links store.Roots
	// InUse are those of processes.
	InUse store.Roots
}

// Source is another store that may have what old lowers do not have any more.
type Source struct {
	Name  string
	Store store.Store
	// Err is why it cannot be asked; there is no Store then.
	Err error
}

// Parts is what an upper is made of, and the lowers.
type Parts struct {
	Dir storepath.Dir
	// DB is the upper's database.
	DB *nixdb.DB
	// Layer is the directory that OverlayFS writes to.
	Layer string
	// Work is OverlayFS's scratch directory; "": not known.
	Work string
	// UserXattr tells how the layer's marks are spelled, see overlayfs.UsesUserXattr.
	UserXattr bool
	// Stage is a directory for copies, on the mounted file system of Layer and not in
	// it. It is made, and removed at the end.
	Stage string
	// Journal is the file in which the job is written down.
	Journal string
	// Old are the old lowers that are still there, New the new ones, first wins.
	Old, New []Lower
	// Gone are the names of old lowers that are not there any more.
	Gone []string
	// Unreadable are objects that old lowers should have and that cannot be copied, with
	// the reason.
	Unreadable map[storepath.Path]error
	// Kept are objects that the upper has because a lower's copy is damaged, whatever that
	// one's database says.
	Kept storepath.Set
	// Roots are the upper's gc roots; nil: none.
	Roots func(ctx context.Context) (Roots, error)
	// StateDir is where links that are gc roots may be removed.
	StateDir string
	// KeepOutputs, KeepDerivations and CADerivations are the settings of the upper that say what
	// a collection of its garbage leaves alive. They count with Options.OnlyLive.
	KeepOutputs, KeepDerivations, CADerivations bool
	// Sources are asked for what no lower has, and for nothing else; nil: nobody. Their objects
	// must have the hash that the upper's database knows, so that nothing else need be trusted.
	Sources func(ctx context.Context) ([]Source, error)
}

// Options say what the plan may do.
type Options struct {
	// OnlyLive takes for needed only what gc roots lead to. Objects of the upper that
	// no root leads to and that lean on something that no new lower has go away.
	OnlyLive bool
	// DropRoots removes gc roots that lead to objects of old lowers that no new one
	// has, instead of copying those.
	DropRoots bool
	// DropMissing drops what cannot be had anywhere, with all that refers to it and the
	// gc roots that lead there.
	DropMissing bool
}

// layers asks several lowers as one, first wins.
type layers []Lower

// infos gives for each of paths the info and the number of the lower that has it; nil
// and -1 if none has.
func (ls layers) infos(ctx context.Context, paths []storepath.Path) (infos []*store.PathInfo, where []int, err error) {
	return ls.find(ctx, paths, func(int, *store.PathInfo) bool { return true })
}

// alike is infos for those that have the contents that are known.
func (ls layers) alike(ctx context.Context, paths []storepath.Path, known []*store.PathInfo) (infos []*store.PathInfo, where []int, err error) {
	return ls.find(ctx, paths, func(i int, info *store.PathInfo) bool { return known[i] != nil && info.NarHash == known[i].NarHash })
}

// find is infos for what a lower has that is right. right gets the place of the path in the list.
func (ls layers) find(ctx context.Context, paths []storepath.Path, right func(i int, info *store.PathInfo) bool) (infos []*store.PathInfo, where []int, err error) {
	infos, where = make([]*store.PathInfo, len(paths)), make([]int, len(paths))
	rest, at := paths, make([]int, len(paths))
	for i := range at {
		at[i], where[i] = i, -1
	}
	for n, l := range ls {
		if len(rest) == 0 {
			break
		}
		answers, err := l.Store.PathInfos(ctx, rest)
		if err != nil {
			return nil, nil, l.wrap(err)
		}
		var next []storepath.Path
		var nextAt []int
		for k, info := range answers {
			there := false
			if info != nil && right(at[k], info) {
				if there, err = l.has(rest[k]); err != nil {
					return nil, nil, l.wrap(err)
				}
			}
			if there {
				infos[at[k]], where[at[k]] = info, n
			} else {
				next, nextAt = append(next, rest[k]), append(nextAt, at[k])
			}
		}
		rest, at = next, nextAt
	}
	return infos, where, nil
}

// has tells whether the object of a valid path is there. One that is not is damage of the
// lower, and no help to anybody who needs it.
func (l Lower) has(p storepath.Path) (bool, error) {
	return exists(filepath.Join(l.Dir, p.Base()))
}

// exists tells whether there is something at a path.
func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// wrap says which lower could not tell.
func (l Lower) wrap(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("lower '%s': %w", l.Name, err)
}
