package overlay

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/check"
	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/optimise"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

var _ optimise.Optimiser = (*Store)(nil)

// optimiseBatch is how many paths are compared with the lowers at a time.
const optimiseBatch = 1000

// Optimise drops objects from the upper layer that a lower has too, with the same
// contents, whose rows stay, and makes equal files of the others one.
func (s *Store) Optimise(ctx context.Context) error {
	_, err := s.OptimiseWith(ctx, optimise.Request{Reflink: s.opts.Upper.Reflink})
	return err
}

// OptimiseWith is Optimise as it is asked for, see [optimise.Optimiser].
func (s *Store) OptimiseWith(ctx context.Context, r optimise.Request) (optimise.Outcome, error) {
	var out optimise.Outcome
	var paths []storepath.Path
	for p, err := range s.Store.AllPaths(ctx) {
		if err != nil {
			return out, err
		}
		if s.inUpper(p.Base()) {
			paths = append(paths, p)
		}
	}
	dropped, err := s.DropDuplicates(ctx, paths, r.DryRun)
	out.Dropped, out.DroppedBytes, out.InUse = uint64(len(dropped.Paths)), dropped.Bytes, uint64(len(dropped.InUse))
	if err != nil {
		return out, err
	}
	if r.DryRun {
		r.Skip = storepath.NewSet(dropped.Paths...)
	} else {
		activity.Logf(ctx, activity.Info, "objects dropped that a lower store has: %d", len(dropped.Paths))
	}
	rest, err := s.Store.OptimiseWith(ctx, r)
	out.Stats = rest.Stats
	return out, err
}

// Duplicates are objects of the upper layer that a lower has too.
type Duplicates struct {
	// Paths were dropped from the upper layer, or would be; Bytes is the space that this gave
	// back.
	Paths []storepath.Path
	Bytes uint64
	// InUse had to stay as a process is in their directories. Differ have other contents in the
	// lower, or less of them.
	InUse, Differ []storepath.Path
}

// DropDuplicates drops those of paths from the upper layer that a lower has with the same
// contents: with the same hash by both databases, and a tree of the same names, types and
// sizes. Their rows stay. Everybody sees the lower's objects afterwards, and no whiteout stays. A
// lower that cannot be asked is an error, and nothing is dropped that it might have.
func (s *Store) DropDuplicates(ctx context.Context, paths []storepath.Path, dryRun bool) (out Duplicates, err error) {
	ctx, act := activity.Start(ctx, activity.Info, activity.OptimiseStore, "dropping what lower stores have")
	defer act.Stop()
	if !dryRun {
		defer s.noteRemoving(ctx)()
	}
	links, err := optimise.ReadLinks(s.RealDir(), s.opts.UpperLayer)
	if err != nil {
		return out, err
	}
	for done := 0; done < len(paths) && err == nil; done += optimiseBatch {
		act.Progress(uint64(done), uint64(len(paths)), 0, 0) //nolint:gosec // not negative
		some := paths[done:min(done+optimiseBatch, len(paths))]
		var dups []storepath.Path
		if dups, err = s.duplicates(ctx, some, &out); err != nil {
			break
		}
		if dryRun {
			out.Paths = append(out.Paths, dups...)
			for _, p := range dups {
				_, bytes := links.Of(s.upperPath(p.Base()))
				out.Bytes += bytes
			}
		} else {
			err = s.drop(ctx, dups, links, &out)
		}
	}
	return out, errors.Join(err, s.refresh(context.WithoutCancel(ctx)))
}

// drop takes objects out of the upper layer.
func (s *Store) drop(ctx context.Context, paths []storepath.Path, links *optimise.Links, out *Duplicates) error {
	if len(paths) == 0 {
		return nil
	}
	// Their rows lean on the lower from now on.
	if err := s.leanBelow(ctx, paths); err != nil {
		return err
	}
	names := make([]string, len(paths))
	var theirs []string
	for i, p := range paths {
		names[i] = p.Base()
		mine, _ := links.Of(s.upperPath(names[i]))
		theirs = append(theirs, mine...)
	}
	freed, err := s.remove(ctx, names)
	crashpoint.Reached("overlay: duplicates removed")
	out.Bytes += freed + links.Drop(theirs)
	for _, p := range paths {
		if s.inUpper(p.Base()) {
			out.InUse = append(out.InUse, p)
		} else {
			out.Paths = append(out.Paths, p)
		}
	}
	return err
}

// duplicates finds those of paths that a lower has with the same contents.
func (s *Store) duplicates(ctx context.Context, paths []storepath.Path, out *Duplicates) (dups []storepath.Path, err error) {
	below, err := s.lowers.PathInfos(ctx, paths)
	if err != nil {
		return nil, err
	}
	here, err := s.Store.DB().PathInfos(ctx, paths)
	if err != nil {
		return nil, err
	}
	var both []*store.PathInfo
	for i, info := range below {
		if info == nil || here[i] == nil || !s.inUpper(paths[i].Base()) {
			continue
		}
		if info.NarHash == here[i].NarHash {
			both = append(both, info)
			continue
		}
		out.Differ = append(out.Differ, paths[i])
		activity.Warnf(ctx, "path '%s' is in the lower store with other contents; its copy in the upper layer stays", s.Dir().Print(paths[i]))
	}
	both, err = s.exceptKept(ctx, both, out)
	if err != nil {
		return nil, err
	}
	alike, err := s.alike(ctx, both)
	for i, info := range both {
		if alike[i] {
			dups = append(dups, info.Path)
		} else if err == nil {
			out.Differ = append(out.Differ, info.Path)
			activity.Warnf(ctx, "path '%s' is not whole in the lower store that has it; its copy in the upper layer stays", s.Dir().Print(info.Path))
		}
	}
	return dups, err
}

// exceptKept leaves out what a repair has put into the upper since the lower's is damaged, whatever
// its database says, as long as it is.
func (s *Store) exceptKept(ctx context.Context, infos []*store.PathInfo, out *Duplicates) ([]*store.PathInfo, error) {
	kept, err := check.ReadKept(s.StateDir())
	if err != nil || len(kept) == 0 {
		return infos, err
	}
	var rest []*store.PathInfo
	for _, info := range infos {
		if kept.Has(info.Path) {
			whole, err := s.lowerIsWhole(ctx, info)
			if err != nil {
				return nil, err
			}
			if !whole {
				out.Differ = append(out.Differ, info.Path)
				continue
			}
		}
		rest = append(rest, info)
	}
	return rest, nil
}

// lowerIsWhole hashes the object that would show if the upper had none.
func (s *Store) lowerIsWhole(ctx context.Context, info *store.PathInfo) (bool, error) {
	below := s.lowers.showing(info.Path.Base())
	if below == "" {
		return false, nil
	}
	h := nixhash.SHA256.New()
	err := nar.Dump(ctx, h, below)
	if errors.Is(err, nar.ErrUnsupportedType) {
		return false, nil
	}
	return nixhash.Sum(nixhash.SHA256, h) == info.NarHash, err
}

// alike tells of each object whether the lower that would show has a tree like the upper's.
func (s *Store) alike(ctx context.Context, infos []*store.PathInfo) ([]bool, error) {
	out := make([]bool, len(infos))
	errs := make([]error, len(infos))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(infos) {
					return
				}
				name := infos[i].Path.Base()
				if below := s.lowers.showing(name); below != "" {
					out[i], errs[i] = sameTree(s.upperPath(name), below)
				}
			}
		})
	}
	wg.Wait()
	return out, errors.Join(append(errs, context.Cause(ctx))...)
}

// showing is where the entry is that the kernel would show if the upper had none, "" if it
// is nowhere.
func (ls lowers) showing(name string) string {
	for _, l := range ls {
		path := filepath.Join(l.dir, name)
		if _, err := os.Lstat(path); err == nil {
			return path
		}
	}
	return ""
}

// sameTree compares two trees without reading files: names, types, sizes, and targets of symlinks.
func sameTree(a, b string) (bool, error) {
	var x, y unix.Stat_t
	if err := unix.Lstat(a, &x); err != nil {
		return false, &fs.PathError{Op: "lstat", Path: a, Err: err}
	}
	if err := unix.Lstat(b, &y); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return false, nil
		}
		return false, &fs.PathError{Op: "lstat", Path: b, Err: err}
	}
	if x.Mode&(unix.S_IFMT|unix.S_IXUSR) != y.Mode&(unix.S_IFMT|unix.S_IXUSR) {
		return false, nil
	}
	switch x.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return x.Size == y.Size, nil
	case unix.S_IFLNK:
		s, err := os.Readlink(a)
		t, errB := os.Readlink(b)
		return s == t, errors.Join(err, errB)
	case unix.S_IFDIR:
		return sameEntries(a, b)
	}
	return false, nil
}

func sameEntries(a, b string) (bool, error) {
	x, err := os.ReadDir(a)
	y, errB := os.ReadDir(b)
	if err = errors.Join(err, errB); err != nil || len(x) != len(y) {
		return false, err
	}
	for i := range x { // both are sorted
		if x[i].Name() != y[i].Name() {
			return false, nil
		}
		if same, err := sameTree(filepath.Join(a, x[i].Name()), filepath.Join(b, x[i].Name())); !same || err != nil {
			return false, err
		}
	}
	return true, nil
}

// ownLinks sees to it that the upper layer has a directory of links, which hides those of
// lowers: to make another link of a file of theirs would copy it up. The first time it makes the
// kernel look again in any case, as somebody may have been killed before he could.
//
// Who may not hide anything, an ordinary user under a mount that root has made, has one that does
// not: files that have a link in a lower stay as they are then, and the others are made one.
func (s *Store) ownLinks(ctx context.Context) error {
	dir := s.upperPath(optimise.LinksName)
	if !s.lowers.exists(optimise.LinksName) {
		return nil // the kernel makes it opaque
	}
	s.links.Lock()
	defer s.links.Unlock()
	opaque, err := overlayfs.IsOpaque(dir)
	if opaque && s.links.own {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !opaque {
		made := os.Mkdir(dir, 0o755) //nolint:gosec // as Nix makes it
		if made == nil {
			_ = os.Chmod(dir, 0o755) //nolint:gosec // whatever the umask is
		} else if !errors.Is(made, fs.ErrExist) {
			return made
		}
		crashpoint.Reached("overlay: links made")
		err := overlayfs.MarkComplete(dir)
		if err != nil && made == nil {
			err = errors.Join(err, os.Remove(dir))
		}
		if errors.Is(err, unix.EPERM) {
			return os.Chmod(filepath.Join(s.RealDir(), optimise.LinksName), 0o755) //nolint:gosec // copies the directory up
		}
		if err != nil {
			return err
		}
	}
	crashpoint.Reached("overlay: links are the upper's own")
	s.stale.Store(true)
	err = s.refresh(context.WithoutCancel(ctx))
	s.links.own = err == nil
	return err
}

// ownedLinks tells whether this process has seen to it that the links are the upper's own.
type ownedLinks struct {
	sync.Mutex
	own bool
}
