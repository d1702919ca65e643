package worker

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

func serveAddTempRoot(ctx context.Context, s *session) error {
	p := s.in.path()
	if err := s.start(); err != nil {
		return err
	}
	roots := s.tempRoots()
	if roots == nil {
		activity.Logf(ctx, activity.Debug, "not creating a temporary root: nothing is ever collected in '%s'", s.view.URI())
		return s.done(nil)
	}
	return s.done(roots.Add(ctx, []storepath.Path{p}))
}

// NewTempRoots implements store.TempRooter: roots live as long as a connection,
// which each has for itself.
func (c *Client) NewTempRoots() store.TempRoots { return &clientRoots{c: c} }

type clientRoots struct {
	c  *Client
	mu sync.Mutex
	k  *conn // nil as long as there are no roots
}

// Add implements store.TempRoots.
func (r *clientRoots) Add(ctx context.Context, paths []storepath.Path) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(paths) == 0 {
		return nil
	}
	if r.k == nil {
		k, err := r.c.connect(ctx)
		if err != nil {
			return err
		}
		r.k = k
	}
	if r.k.broken {
		return fmt.Errorf("temporary roots in '%s' were lost: %w", r.c.o.URI, ErrDisconnected)
	}
	return r.k.during(ctx, func() error {
		return r.k.askMany(ctx, opAddTempRoot, len(paths),
			func(e *encoder, i int) { e.path(paths[i]) },
			func(d *decoder, _ int) { acknowledged(d) })
	})
}

// Close implements store.TempRoots.
func (r *clientRoots) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.k != nil {
		r.k.close()
		r.k = nil
	}
	return nil
}

func serveAddIndirectRoot(ctx context.Context, s *session) error {
	link := s.in.TextMax(maxPath)
	if err := s.start(); err != nil {
		return err
	}
	k, err := store.Need[store.RootKeeper](s.view, "addIndirectRoot")
	if err != nil {
		return err
	}
	return s.done(k.AddIndirectRoot(ctx, link))
}

func serveAddPermRoot(ctx context.Context, s *session) error {
	p := s.in.path()
	link := s.in.TextMax(maxPath)
	if err := s.start(); err != nil {
		return err
	}
	if !s.Trusted {
		return denied("you are not privileged to create perm roots\n\n" +
			"hint: you can just do this client-side without special privileges, and probably want to do that instead.")
	}
	k, err := store.Need[store.RootKeeper](s.view, "addPermRoot")
	if err != nil {
		return err
	}
	final, err := k.AddPermRoot(ctx, p, link)
	if err != nil {
		return err
	}
	s.stop()
	s.out.Text(final)
	return nil
}

// serveSyncWithGC does nothing: temporary roots are seen by a collection as soon
// as they are added.
func serveSyncWithGC(_ context.Context, s *session) error {
	return s.done(s.start())
}

// AddIndirectRoot implements store.RootKeeper.
func (c *Client) AddIndirectRoot(ctx context.Context, link string) error {
	return c.ask(ctx, opAddIndirectRoot, func(e *encoder) { e.Text(link) }, acknowledged)
}

// AddPermRoot implements store.RootKeeper. The symlink is made by us, with our
// rights, and the daemon is only told of it: it need not trust us for that.
func (c *Client) AddPermRoot(ctx context.Context, p storepath.Path, link string) (string, error) {
	link, err := filepath.Abs(link)
	if err != nil {
		return "", err
	}
	if _, _, err := c.o.Dir.Split(link); err == nil {
		return "", fmt.Errorf("creating a garbage collector root (%s) in the Nix store is forbidden (are you running nix-build inside the store?)", link)
	}
	if err := c.ask(ctx, opAddTempRoot, func(e *encoder) { e.path(p) }, acknowledged); err != nil {
		return "", err
	}
	if _, err := os.Lstat(link); err == nil {
		// Only a root may be replaced.
		target, err := os.Readlink(link)
		if err == nil {
			_, _, err = c.o.Dir.Split(target)
		}
		if err != nil {
			return "", fmt.Errorf("cannot create symlink '%s'; already exists", link)
		}
	}
	if err := replaceSymlink(c.o.Dir.Print(p), link); err != nil {
		return "", err
	}
	return link, c.AddIndirectRoot(ctx, link)
}

// replaceSymlink makes link point to target, whatever it was before, in one step.
func replaceSymlink(target, link string) error {
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return err
	}
	temp := fmt.Sprintf("%s.tmp-%d-%d", link, os.Getpid(), rand.Uint64())
	if err := os.Symlink(target, temp); err != nil {
		return err
	}
	if err := os.Rename(temp, link); err != nil {
		_ = os.Remove(temp) // the first error counts
		return err
	}
	return nil
}

func serveFindRoots(ctx context.Context, s *session) error {
	if err := s.start(); err != nil {
		return err
	}
	c, err := store.Need[store.Collector](s.view, "findRoots")
	if err != nil {
		return err
	}
	roots, err := c.FindRoots(ctx, !s.Trusted)
	if err != nil {
		return err
	}
	s.stop()
	n := 0
	for _, links := range roots {
		n += len(links)
	}
	s.out.Uint64(uint64(n))
	for _, p := range slices.SortedFunc(maps.Keys(roots), storepath.Compare) {
		for _, link := range slices.Sorted(slices.Values(roots[p])) {
			s.out.Text(link)
			s.out.path(p)
		}
	}
	return nil
}

// FindRoots implements store.Collector. The daemon censors for those whom it
// does not trust; if it trusts us and our own client is not to see everything, we do.
func (c *Client) FindRoots(ctx context.Context, censor bool) (store.Roots, error) {
	roots := store.Roots{}
	err := c.ask(ctx, opFindRoots, nil, func(d *decoder) {
		for range d.Count() {
			link, p := d.TextMax(maxPath), d.path()
			if d.Err() != nil {
				return
			}
			if censor && (strings.HasPrefix(link, "/proc/") || strings.HasPrefix(link, "{")) {
				link = "{censored}"
			}
			if !slices.Contains(roots[p], link) {
				roots[p] = append(roots[p], link)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return roots, nil
}
