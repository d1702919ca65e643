package stack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/image"
	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/internal/mount"
	"github.com/strata-nix/strata/lease"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/overlay"
	"github.com/strata-nix/strata/storepath"
)

// rootsDir is the directory among the gc roots of a lower by which its owner opts in:
// whoever may write to it registers there what he uses. Nothing is written to a lower
// that does not have it.
const rootsDir = "gcroots/strata"

func rootsPlace(state string) string {
	if state == "" {
		return ""
	}
	return filepath.Join(state, rootsDir)
}

// stateOf is the state directory that the URI of a lower speaks of, "" if none.
func stateOf(ref store.Reference) string {
	if state := ref.Param("state"); state != "" {
		return state
	}
	if root := ref.Param("root"); root != "" {
		return filepath.Join(root, stateInRoot)
	}
	return ""
}

// keepRoots shows the place of roots of a lower that is about to be covered, to be
// written to, if there is one.
func (f *found) keepRoots() []step {
	if f.Roots == No {
		return nil
	}
	target := filepath.Join(f.place, "roots")
	// What an earlier run has mounted covers the place of the lower.
	left, err := mount.Identify(target)
	if st, statErr := os.Stat(f.roots); (statErr != nil || !st.IsDir()) && (err != nil || !left.Root) {
		return nil
	}
	s := keepStep(roleRoots+f.Name, f.roots, target)
	source := f.roots
	s.attach = func(ctx context.Context, before func(overlayfs.Record) error) error {
		if unix.Access(source, unix.W_OK) != nil { // only looked at: the lower's daemon may be told
			_, err := image.Mount(ctx, image.Options{Source: source, Target: target, BeforeAttach: before})
			return err
		}
		return bindWritable(source, target, before)
	}
	// Its entries are what others and we have registered.
	s.covers = true
	f.roots = target
	return []step{s}
}

// openRoots finds out how roots of a lower are registered; nil if its owner has not
// opted in.
func (s *Stack) openRoots(lower int, f *found, st store.Store, u usage) (kind string, _ holder, err error) {
	if f.roots == "" {
		return "", nil, nil
	}
	place, err := os.Stat(f.roots)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !place.IsDir() {
		if f.Roots == Yes {
			s.parts.Log.Warn(fmt.Sprintf("lower '%s': its owner has not made '%s', so that nothing is registered there", f.Name, f.roots))
		}
		return "", nil, nil
	}
	if err != nil && f.Roots != Yes {
		s.parts.Log.Warn(fmt.Sprintf("lower '%s': whether its owner wants to be told what is used: %v", f.Name, err))
		return "", nil, nil
	}
	if err != nil {
		return "", nil, f.fail(false, err, "its gc roots cannot be looked at")
	}
	h := &rootsHolder{
		links: links{place: f.roots, consumer: s.Config.Consumer, dir: s.Config.StoreDir},
		state: f.state, about: s.Config.holder(), fresh: map[storepath.Path]time.Time{},
		valid: func(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error) {
			return u.LowerValid(ctx, lower, paths)
		},
	}
	if unix.Access(f.roots, unix.W_OK) == nil {
		return "roots", h, nil
	}
	keeper, canKeep := store.As[store.RootKeeper](st)
	temp, canHold := store.As[store.TempRooter](st)
	if f.kind != KindStore || f.Store.Scheme == "local" || !canKeep || !canHold {
		if f.Roots == Yes {
			return "", nil, f.fail(false, nil, "'%s' must not be written to, and there is no daemon to be told", f.roots)
		}
		return "", nil, nil
	}
	h.links.place = filepath.Join(s.Config.Upper.Dir, "roots")
	h.links.consumer = f.Name
	if err := makeDir(h.links.place); err != nil {
		return "", nil, err
	}
	h.daemon = &rootsDaemon{keeper, temp}
	return "daemon", h, nil
}

// rootsDaemon is the daemon of a lower, which is told where symlinks of ours are.
type rootsDaemon struct {
	keeper store.RootKeeper
	temp   store.TempRooter
}

// rootsHolder registers what is used as symlinks.
type rootsHolder struct {
	links  links
	state  string // of the lower
	about  string
	valid  func(context.Context, []storepath.Path) ([]storepath.Path, error)
	daemon *rootsDaemon // nil: the links are among the lower's roots themselves

	mu    sync.Mutex
	fresh map[storepath.Path]time.Time // leaned on, and not yet found again
	since time.Time                    // when the last renewal took what was found out of fresh
}

// freshFor is for how long a root stays that was leaned on and is not found again.
const freshFor = time.Hour

func (h *rootsHolder) renew(ctx context.Context, began time.Time, l overlay.Leaning) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	// It may have looked before the last one did, and so not know all that is used.
	overlaps := began.Before(h.since)
	h.since = time.Now()
	want := storepath.NewSet(l.Roots...)
	for p, at := range h.fresh {
		if at.Before(began.Add(-freshFor)) || at.Before(began) && want.Has(p) {
			delete(h.fresh, p)
			continue
		}
		want.Add(p)
	}
	if err := h.links.add(ctx, want.Sorted()); err != nil {
		return err
	}
	if err := h.tell(ctx, want.Sorted()); err != nil {
		return err
	}
	crashpoint.Reached("stack: roots of a lower added")
	if !overlaps {
		if err := h.links.removeOthers(want); err != nil {
			return err
		}
	}
	return h.links.describe(h.about)
}

// tell tells the daemon of a lower where the links are. It forgets those that it did
// not find when it collected garbage.
func (h *rootsHolder) tell(ctx context.Context, paths []storepath.Path) error {
	if h.daemon == nil {
		return nil
	}
	for _, p := range paths {
		if err := h.daemon.keeper.AddIndirectRoot(ctx, h.links.path(p)); err != nil {
			return fmt.Errorf("telling its daemon of a root: %w", err)
		}
	}
	return nil
}

func (h *rootsHolder) lean(ctx context.Context, paths []storepath.Path) error {
	if err := h.register(ctx, paths); err != nil {
		return err
	}
	if h.daemon == nil {
		// Who begins to collect now finds the links.
		if err := collectionsOver(ctx, h.state); err != nil {
			return err
		}
	}
	valid, err := h.valid(ctx, paths)
	if err != nil {
		return err
	}
	if lost := storepath.NewSet(valid...).Missing(paths); len(lost) > 0 {
		return fmt.Errorf("path '%s' %w", h.links.dir.Print(lost[0]), lease.ErrGone)
	}
	return nil
}

func (h *rootsHolder) register(ctx context.Context, paths []storepath.Path) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range paths {
		h.fresh[p] = time.Now()
	}
	if h.daemon == nil {
		return h.links.add(ctx, paths)
	}
	// Until the daemon has been told of the links, a collection that runs is told of the
	// paths.
	temp := h.daemon.temp.NewTempRoots()
	defer func() { _ = temp.Close() }() // they are roots by then
	if err := temp.Add(ctx, paths); err != nil {
		return err
	}
	if err := h.links.add(ctx, paths); err != nil {
		return err
	}
	crashpoint.Reached("stack: links for a daemon made")
	return h.tell(ctx, paths)
}

func (h *rootsHolder) interval(context.Context) (time.Duration, error) { return publishAtLeast, nil }
func (h *rootsHolder) describe(*HoldStatus)                            {}

// links are the symlinks of one consumer in a directory of many.
type links struct {
	place    string
	consumer string
	dir      storepath.Dir
}

func (l *links) path(p storepath.Path) string { return filepath.Join(l.place, l.consumer, p.Base()) }

// open opens the directory of the consumer, made if it is not there. Others may be
// able to make names beside it, so that what is somebody else's is refused.
func (l *links) open() (*os.Root, error) {
	place, err := os.OpenRoot(l.place)
	if err != nil {
		return nil, err
	}
	defer place.Close()
	if err := place.Mkdir(l.consumer, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	st, err := place.Lstat(l.consumer)
	if err != nil {
		return nil, err
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); !st.IsDir() || !ok || int(sys.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("'%s' is not a directory of this user; another consumer may have the name '%s'", filepath.Join(l.place, l.consumer), l.consumer)
	}
	return place.OpenRoot(l.consumer)
}

// add makes the links that are not there yet; they are on disk then.
func (l *links) add(ctx context.Context, paths []storepath.Path) error {
	r, err := l.open()
	if err != nil {
		return err
	}
	defer r.Close()
	for _, p := range paths {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		err := r.Symlink(l.dir.Print(p), p.Base())
		if errors.Is(err, fs.ErrExist) {
			err = l.mend(r, p)
		}
		if err != nil {
			return err
		}
	}
	return syncRoot(r)
}

// mend sees that a link that is there leads where it should.
func (l *links) mend(r *os.Root, p storepath.Path) error {
	if to, err := r.Readlink(p.Base()); err == nil && to == l.dir.Print(p) {
		return nil
	}
	if err := r.Remove(p.Base()); err != nil {
		return err
	}
	return r.Symlink(l.dir.Print(p), p.Base())
}

// removeOthers removes the links to all other paths.
func (l *links) removeOthers(keep storepath.Set) error {
	r, err := l.open()
	if err != nil {
		return err
	}
	defer r.Close()
	names, err := namesIn(r)
	if err != nil {
		return err
	}
	for _, name := range names {
		p, err := storepath.ParseBase(name)
		if err != nil || keep.Has(p) {
			continue
		}
		if err := r.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		crashpoint.Reached("stack: root of a lower removed")
	}
	return nil
}

// aboutFile says whose links these are, for the owner of the lower.
const aboutFile = ".consumer"

// describe says whose links these are and when they were brought up to date.
func (l *links) describe(who string) error {
	r, err := l.open()
	if err != nil {
		return err
	}
	defer r.Close()
	text := fmt.Sprintf("holder: %s\nupdated: %s\n", who, time.Now().UTC().Format(time.RFC3339))
	if err := r.WriteFile(aboutFile+".new", []byte(text), 0o644); err != nil {
		return err
	}
	return r.Rename(aboutFile+".new", aboutFile)
}

// remove removes the directory of the consumer, if nothing else is in it.
func (l *links) remove() error {
	place, err := os.OpenRoot(l.place)
	if err != nil {
		return err
	}
	defer place.Close()
	if err := place.Remove(filepath.Join(l.consumer, aboutFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return place.Remove(l.consumer)
}

func namesIn(r *os.Root) ([]string, error) {
	d, err := r.Open(".")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

func syncRoot(r *os.Root) error {
	d, err := r.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
