package overlay

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// growth sees to it that the merged directory shows what lowers gain. The kernel
// keeps in mind that a name was not there when somebody looked; a lower that grows
// behind its back, and ours, is noticed by the time of its directory.
type growth struct {
	mu    sync.Mutex
	known []stamp // of the lowers, when all of theirs showed
}

// stamp is the time at which a directory was changed; 0 if nobody can tell.
type stamp int64

func stampOf(dir string) stamp {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_STATX_DONT_SYNC, unix.STATX_MTIME, &st); err != nil {
		return 0
	}
	return stamp(st.Mtime.Sec*1e9 + int64(st.Mtime.Nsec))
}

// unsettled is the time in which a directory may change twice without a change of
// its mtime, on kernels whose clock for files is coarse.
const unsettled = 20 * time.Millisecond

// stamps looks at the lowers. One that may yet change unnoticed is 0.
func (ls lowers) stamps() []stamp {
	now := time.Now()
	out := make([]stamp, len(ls))
	for i, l := range ls {
		out[i] = stampOf(l.dir)
		if age := now.Sub(time.Unix(0, int64(out[i]))); age < unsettled && age > -unsettled {
			out[i] = 0
		}
	}
	return out
}

// showing is the lowers, whose objects show by the time somebody hears of them.
type showing struct{ s *Store }

// ValidPaths implements store.Querier.
func (v showing) ValidPaths(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error) {
	valid, err := v.s.lowers.ValidPaths(ctx, paths)
	if err == nil && v.s.haveGrown() {
		v.s.show(ctx, valid)
	}
	return valid, err
}

// PathInfos implements store.Querier.
func (v showing) PathInfos(ctx context.Context, paths []storepath.Path) ([]*store.PathInfo, error) {
	infos, err := v.s.lowers.PathInfos(ctx, paths)
	if err == nil && v.s.haveGrown() {
		var valid []storepath.Path
		for _, info := range infos {
			if info != nil {
				valid = append(valid, info.Path)
			}
		}
		v.s.show(ctx, valid)
	}
	return infos, err
}

// haveGrown tells whether lowers have changed since all of theirs showed.
func (s *Store) haveGrown() bool {
	s.growth.mu.Lock()
	defer s.growth.mu.Unlock()
	grown := false
	for i, l := range s.lowers {
		if a, ok := store.As[store.Appearing](l.Store); ok && a.Appeared() {
			grown = true
		}
		if known := s.growth.known[i]; known == 0 || known != stampOf(l.dir) {
			grown = true
		}
	}
	return grown
}

// show makes objects of lowers visible, if they are not. It tells whether it has
// changed anything.
func (s *Store) show(ctx context.Context, paths []storepath.Path) bool {
	if s.opts.RemountHook != "" || s.opts.NoCheckMount || !slices.ContainsFunc(paths, s.hidden) {
		return false
	}
	s.growth.mu.Lock()
	defer s.growth.mu.Unlock()
	if !slices.ContainsFunc(paths, s.hidden) {
		return true // somebody else was quicker
	}
	known := s.lowers.stamps()
	for _, p := range paths {
		if !s.hidden(p) {
			continue
		}
		if err := s.dropWhiteout(p.Base()); err != nil {
			activity.Warnf(ctx, "%v", err)
		}
	}
	if err := overlayfs.Refresh(context.WithoutCancel(ctx), s.Store.RealDir()); err != nil && !errors.Is(err, overlayfs.ErrListingsStale) {
		activity.Warnf(ctx, "objects that a lower store has gained do not show: %v", err)
		return false
	}
	s.growth.known = known
	return true
}

// Refreshed is what a refresh was.
type Refreshed struct {
	// Grown are the numbers of the lowers whose directories have changed since the
	// last one, or may have.
	Grown []int
	// ListingsStale tells that processes which hold the merged directory open may go on
	// reading an old listing, as on a full disk.
	ListingsStale bool
	Took          time.Duration
}

// Refresh makes everything visible that lowers have gained, to all processes, without
// disturbing them. Only one runs at a time. It takes as long as [overlayfs.Refresh],
// so it is for many changes at once.
func (s *Store) Refresh(ctx context.Context) (*Refreshed, error) {
	if s.guard != nil {
		if err := s.guard.Check(); err != nil {
			return nil, err
		}
	}
	s.growth.mu.Lock()
	defer s.growth.mu.Unlock()
	began, known := time.Now(), s.lowers.stamps()
	r := &Refreshed{}
	for i, k := range known {
		if k == 0 || k != s.growth.known[i] {
			r.Grown = append(r.Grown, i)
		}
	}
	s.stale.Store(true)
	err := s.refresh(context.WithoutCancel(ctx))
	if errors.Is(err, overlayfs.ErrListingsStale) {
		r.ListingsStale, err = true, nil
	}
	if err != nil {
		return nil, err
	}
	s.growth.known, r.Took = known, time.Since(began)
	return r, nil
}

// LowerDirs are the directories of the lowers' objects, in order.
func (s *Store) LowerDirs() []string {
	out := make([]string, len(s.lowers))
	for i, l := range s.lowers {
		out[i] = l.dir
	}
	return out
}

// hidden tells whether a lower has an object that nobody sees.
func (s *Store) hidden(p storepath.Path) bool {
	_, err := os.Lstat(filepath.Join(s.Store.RealDir(), p.Base()))
	return errors.Is(err, fs.ErrNotExist) && s.lowers.exists(p.Base())
}
