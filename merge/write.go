package merge

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/crashpoint"
)

// WriteOptions say how a store is written.
type WriteOptions struct {
	// Registered is the time at which all paths became valid, in seconds since 1970; 0 is 1.
	Registered int64
	// Replace puts an image in the place of one that is there. Who has that mounted keeps it.
	Replace bool
}

func (o *WriteOptions) registered() int64 { return max(o.Registered, 1) }

// Result is what was written.
type Result struct {
	// Size of an image in bytes; 0 for a directory.
	Size int64
	// Shared are bytes of a directory's files that take no space of their own.
	Shared uint64
}

// Places in a store below a root.
const (
	storeInRoot = "nix/store"
	dbInRoot    = "nix/var/nix/db"
)

// places are all directories of a store below a root. Those that stay empty are there for stock
// Nix, which wants to make them before it reads, also on a file system that is read-only.
var places = []string{
	"nix", "nix/store", "nix/store/.links", "nix/var", "nix/var/nix", "nix/var/nix/db",
	"nix/var/nix/gcroots", "nix/var/nix/gcroots/per-user", "nix/var/nix/profiles", "nix/var/nix/profiles/per-user", "nix/var/nix/temproots",
}

// WriteDirectory makes a directory that is a store (local?root=TARGET). Nothing is at the target
// before it is whole and on disk, and nothing stays after an error.
func (p *Plan) WriteDirectory(ctx context.Context, target string, o WriteOptions) (res Result, err error) {
	w, err := newWorkspace(ctx, target, false)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, w.close(ctx)) }()
	const root = "root"
	for _, dir := range append([]string{""}, places...) {
		if err := makeDir(filepath.Join(w.path(root), dir)); err != nil {
			return res, err
		}
	}
	if res.Shared, err = p.copyAll(ctx, filepath.Join(w.path(root), storeInRoot)); err != nil {
		return res, err
	}
	crashpoint.Reached("merge: objects copied")
	if err := p.writeDatabase(ctx, filepath.Join(w.path(root), dbInRoot), o.registered()); err != nil {
		return res, err
	}
	return res, w.publish(root, false)
}

// makeDir makes a directory for everybody to read, whatever the umask.
func makeDir(path string) error {
	return errors.Join(os.Mkdir(path, 0o755), os.Chmod(path, 0o755)) //nolint:gosec // see above
}

// copyAll copies all objects to a directory, several at a time.
func (p *Plan) copyAll(ctx context.Context, to string) (shared uint64, err error) {
	ctx, act := activity.Start(ctx, activity.Info, activity.CopyPaths, "copying objects")
	defer act.Stop()
	c, err := NewCopier(to)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	var done atomic.Uint64
	for some := range slices.Chunk(p.items, batch) {
		infos, err := p.infos(ctx, some)
		if err != nil {
			return 0, err
		}
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(runtime.GOMAXPROCS(0))
		for i, it := range some {
			if it.dir == none {
				continue
			}
			l := &p.layers[it.dir]
			group.Go(func() error {
				if err := c.Copy(ctx, l.Dir, it.path, infos[i].NarHash); err != nil {
					return l.wrap(err)
				}
				act.Progress(done.Add(infos[i].NarSize), p.NarBytes, 0, 0)
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			return 0, err
		}
	}
	return c.Shared(), nil
}
