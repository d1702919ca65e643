package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// danglingRoot is what a repair of a root has to know.
type danglingRoot struct {
	link string         // below gcroots or profiles
	path storepath.Path // that it leads to; zero: it leads to a link that is gone
}

// findDanglingRoots looks for roots of paths that are not valid, and for links to links
// that are gone.
func findDanglingRoots(ctx context.Context, x *examination, say func(*Finding)) error {
	if !x.selected[0] {
		return nil
	}
	w := rootWalk{dir: x.Dir}
	for _, top := range []string{"gcroots", "profiles"} {
		if err := w.walk(ctx, filepath.Join(x.StateDir, top), 0); err != nil {
			return fmt.Errorf("looking for roots: %w", err)
		}
	}
	for _, link := range w.gone {
		say(&Finding{Path: visible(link.link), Detail: "it leads to '" + visible(link.to) + "', which is not there", data: danglingRoot{link: link.link}})
	}
	if slices.ContainsFunc(x.Layers, func(l Layer) bool { return l.Gone }) {
		return nil // they may be valid there
	}
	valid, err := x.validAnywhere(ctx, w.roots)
	if err != nil {
		return fmt.Errorf("looking for roots: %w", err)
	}
	for p, links := range w.roots {
		if valid.Has(p) {
			continue
		}
		for _, l := range links {
			say(&Finding{Path: visible(l), Detail: "'" + x.Dir.Print(p) + "' is not valid", data: danglingRoot{link: l, path: p}})
		}
	}
	return nil
}

// validAnywhere gives those of paths that are valid in any layer.
func (x *examination) validAnywhere(ctx context.Context, roots store.Roots) (storepath.Set, error) {
	all := make([]storepath.Path, 0, len(roots))
	for p := range roots {
		all = append(all, p)
	}
	all = storepath.SortUnique(all)
	valid := storepath.Set{}
	for i := range x.Layers {
		rows, err := x.Layers[i].lookUp(ctx, all)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", x.Layers[i].Name, err)
		}
		for _, r := range rows {
			if r.ID != 0 {
				valid.Add(r.Path)
			}
		}
	}
	return valid, nil
}

// rootWalk goes through directories of roots as a garbage collection does, and changes
// nothing.
type rootWalk struct {
	dir   storepath.Dir
	roots store.Roots
	gone  []goneLink
}

type goneLink struct{ link, to string }

// maxRootDepth is as in package gc.
const maxRootDepth = 64

func (w *rootWalk) walk(ctx context.Context, path string, depth int) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return nil
	case err != nil:
		return err
	case st.IsDir() && depth < maxRootDepth:
		list, err := os.ReadDir(path)
		if err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range list {
			if err := w.walk(ctx, filepath.Join(path, e.Name()), depth+1); err != nil {
				return err
			}
		}
	case st.Mode().Type() == fs.ModeSymlink:
		w.link(path)
	case st.Mode().IsRegular():
		if p, err := storepath.ParseBase(filepath.Base(path)); err == nil {
			w.add(p, path)
		}
	}
	return nil
}

// link takes a link into the store, or one step away from it.
func (w *rootWalk) link(path string) {
	target, err := os.Readlink(path)
	if err != nil || w.leadsInto(target, path) {
		return
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join(filepath.Dir(path), target)
	}
	second, err := os.Readlink(target)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		w.gone = append(w.gone, goneLink{path, target})
	case err == nil:
		w.leadsInto(second, path)
	}
}

func (w *rootWalk) leadsInto(target, link string) bool {
	p, _, err := w.dir.Split(target)
	if err != nil {
		return strings.HasPrefix(target, string(w.dir)+"/")
	}
	w.add(p, link)
	return true
}

func (w *rootWalk) add(p storepath.Path, link string) {
	if w.roots == nil {
		w.roots = store.Roots{}
	}
	w.roots[p] = append(w.roots[p], link)
}

// mendRoot gets what a root names, or deletes a root that leads nowhere.
func mendRoot(ctx context.Context, r *repairs, f *Finding) error {
	root, ok := f.data.(danglingRoot)
	if !ok {
		return errNothingKnown
	}
	if !root.path.IsZero() {
		err := errors.New("nobody can get it")
		if r.Tools.Ensure != nil {
			err = r.Tools.Ensure(ctx, root.path)
		}
		if err == nil {
			return nil
		}
		if give, askErr := r.givesUp(ctx, f, nil); !give || askErr != nil {
			return errors.Join(err, askErr)
		}
		f.dropped = true
	}
	if err := os.Remove(root.link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	crashpoint.Reached("check: root deleted")
	return nil
}

// findTemporaryRootsOfDead looks for files of processes that have ended.
func findTemporaryRootsOfDead(_ context.Context, x *examination, say func(*Finding)) error {
	if !x.selected[0] {
		return nil
	}
	for _, path := range x.temporaryRootsOf(x.StateDir).dead {
		say(&Finding{Path: visible(path), data: path})
	}
	notes, _ := filepath.Glob(filepath.Join(globQuoted(x.StateDir), removalNotes))
	for _, path := range notes {
		if !x.inUse(path, unix.DT_REG) {
			say(&Finding{Path: visible(path), Detail: "a removal from the upper layer was killed", data: path})
		}
	}
	return nil
}

// mendTemporaryRoots deletes the file of a process that has ended, in the way of a garbage
// collection: with its lock held, and marked for whoever waits for that.
func mendTemporaryRoots(_ context.Context, _ *repairs, f *Finding) error {
	path, ok := f.data.(string)
	if !ok {
		return errNothingKnown
	}
	return deleteUnheld(path)
}

// deleteUnheld deletes a file that nobody has locked, in the way of Nix's lock files.
func deleteUnheld(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrPermission) {
		f, err = os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("somebody holds '%s' now: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	crashpoint.Reached("check: file of a process that has ended deleted")
	_, _ = f.WriteAt([]byte("d"), 0) // harmless if it cannot be
	return nil
}
