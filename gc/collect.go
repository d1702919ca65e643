package gc

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// batch is how many paths are deleted in one transaction. Clients that want one
// of them back wait for the whole batch.
const batch = 256

// Parts is what a store hands to a collection of its garbage.
type Parts struct {
	Dir      storepath.Dir
	StateDir string
	// Graph loads what is valid. It is called once, after the temporary roots have
	// been read.
	Graph func(ctx context.Context) (Graph, Keeps, error)
	// Entries lists the names in the store directory that this store could delete,
	// without .links.
	Entries func(ctx context.Context) ([]string, error)
	// Invalidate makes paths invalid in one transaction; references among them do
	// not matter. It gives back those that it left valid because something that
	// came meanwhile refers to them.
	Invalidate func(ctx context.Context, paths []storepath.Path) (inUse []storepath.Path, err error)
	// Present gives those of names of which there is something to be deleted; the
	// others are made invalid and not spoken of. nil: all.
	Present func(names []string) []string
	// Remove deletes entries of the store directory, and tells how many bytes left
	// the disk. Names that are not there are passed over.
	Remove func(ctx context.Context, names []string) (freed uint64, err error)
	// Busy tells whether a temporary directory of the store is in use.
	Busy func(name string) bool
	// SeenAt are other places at which processes may see the store directory.
	SeenAt []string
	// RootsDaemon asks a roots daemon what processes use, instead of looking.
	RootsDaemon bool
	// MoreRoots adds roots that only this store knows of; may be nil.
	MoreRoots func(ctx context.Context) (store.Roots, error)
}

// Collect collects garbage, see [store.Collector].
func Collect(ctx context.Context, p Parts, o store.GCOptions) (*store.GCResult, error) {
	lock, err := flock.Open(filepath.Join(p.StateDir, "gc.lock"))
	if err != nil {
		return nil, fmt.Errorf("collecting garbage: %w", err)
	}
	defer func() { _ = lock.Close() }()
	err = lock.Lock(ctx, flock.Exclusive, func() {
		activity.Logf(ctx, activity.Info, "waiting for the big garbage collector lock...")
	})
	if err != nil {
		return nil, fmt.Errorf("collecting garbage: %w", err)
	}
	server, err := startRootServer(p.StateDir, p.Dir)
	if err != nil {
		return nil, fmt.Errorf("collecting garbage: listening for new roots: %w", err)
	}
	defer server.close()

	c := &collection{Parts: p, opts: o, server: server, result: &store.GCResult{}}
	if err := c.load(ctx); err != nil {
		return nil, err
	}
	switch {
	case o.Action == store.DeleteSpecific:
		err = c.deleteSpecific(ctx)
	case o.Action == store.ReturnLive:
		c.reportLive()
	case o.MaxFreed > 0:
		err = c.deleteDead(ctx)
	}
	if errors.Is(err, errLimit) {
		err = nil
	}
	return c.result, err
}

// FindRoots finds all roots, temporary ones included, whose paths satisfy valid.
// With censor it hides what processes and temporary roots belong to.
func FindRoots(ctx context.Context, p Parts, valid func(context.Context, []storepath.Path) ([]storepath.Path, error), censor bool) (store.Roots, error) {
	lasting, err := p.lastingRoots(ctx, censor)
	if err != nil {
		return nil, err
	}
	ok, err := valid(ctx, lasting.paths())
	if err != nil {
		return nil, err
	}
	all := store.Roots{}
	for _, path := range ok {
		all[path] = lasting[path]
	}
	temp, err := ReadTempRoots(ctx, filepath.Join(p.StateDir, "temproots"), p.Dir)
	if err != nil {
		return nil, err
	}
	merge(all, temp, censor)
	return all, nil
}

// censored stands for what an untrusted user must not see.
const censored = "{censored}"

type rootSet store.Roots

func (r rootSet) paths() []storepath.Path {
	out := make([]storepath.Path, 0, len(r))
	for p := range r {
		out = append(out, p)
	}
	return storepath.SortUnique(out)
}

func merge(into, from store.Roots, censor bool) {
	for p, links := range from {
		if censor {
			links = []string{censored}
		}
		for _, l := range links {
			if !slices.Contains(into[p], l) {
				into[p] = append(into[p], l)
			}
		}
	}
}

// lastingRoots are all but the temporary ones.
func (p Parts) lastingRoots(ctx context.Context, censor bool) (rootSet, error) {
	all, err := LinkRoots(ctx, p.StateDir, p.Dir)
	if err != nil {
		return nil, err
	}
	running, err := p.runtimeRoots(ctx)
	if err != nil {
		return nil, err
	}
	merge(all, running, censor)
	if p.MoreRoots != nil {
		more, err := p.MoreRoots(ctx)
		if err != nil {
			return nil, err
		}
		merge(all, more, censor)
	}
	return rootSet(all), nil
}

// runtimeRoots are what processes use.
func (p Parts) runtimeRoots(ctx context.Context) (store.Roots, error) {
	if p.RootsDaemon {
		return DaemonRoots(ctx, p.StateDir, p.Dir)
	}
	return ProcessRoots(ctx, "/proc", p.Dir, p.SeenAt...)
}

// errLimit ends a collection that has freed enough.
var errLimit = errors.New("freed enough")

type collection struct {
	Parts
	opts   store.GCOptions
	server *rootServer
	result *store.GCResult

	graph Graph
	keeps Keeps
	alive bits
	// tempRooted has hash parts, so that a root keeps <path>.lock too.
	tempRooted map[string]bool
	rooted     storepath.Set
}

// load finds the roots, then the graph, then what is alive. The order matters: a
// path whose temporary root is gone when we look has been registered before, so
// that the graph has it.
func (c *collection) load(ctx context.Context) error {
	activity.Logf(ctx, activity.Info, "finding garbage collector roots...")
	lasting := rootSet{}
	if !c.opts.IgnoreLiveness {
		var err error
		if lasting, err = c.lastingRoots(ctx, true); err != nil {
			return err
		}
	}
	temp, err := ReadTempRoots(ctx, filepath.Join(c.StateDir, "temproots"), c.Dir)
	if err != nil {
		return err
	}
	if c.graph, c.keeps, err = c.Graph(ctx); err != nil {
		return err
	}
	if c.opts.Action == store.DeleteSpecific && c.opts.IgnoreLiveness {
		c.keeps = nil // or deleting an output would ask for its deriver
	}
	c.alive = newBits(c.graph.Len())
	c.tempRooted, c.rooted = map[string]bool{}, storepath.Set{}
	for p := range temp {
		c.tempRooted[p.HashPart()] = true
		c.root(p)
	}
	for p := range lasting {
		c.root(p)
	}
	return nil
}

func (c *collection) root(p storepath.Path) {
	c.rooted.Add(p)
	if i := c.graph.Find(p); i >= 0 {
		mark(c.graph, c.keeps, c.alive, i)
	}
}

func (c *collection) reportLive() {
	for i := range c.graph.Len() {
		if c.alive.has(i) {
			c.result.Paths = append(c.result.Paths, c.Dir.Print(c.graph.Path(i)))
		}
	}
}

// deleteDead deletes, or lists, everything that is not alive.
func (c *collection) deleteDead(ctx context.Context) error {
	if c.opts.Action == store.DeleteDead {
		activity.Logf(ctx, activity.Info, "deleting garbage...")
	} else {
		activity.Logf(ctx, activity.Info, "determining live/dead paths...")
	}
	entries, err := c.Entries(ctx)
	if err != nil {
		return err
	}
	dead := referrersFirst(c.graph, func(i int) bool { return !c.alive.has(i) })
	stray := c.strays(entries)
	if c.opts.Action == store.ReturnDead {
		for _, i := range dead {
			c.result.Paths = append(c.result.Paths, c.Dir.Print(c.graph.Path(int(i))))
		}
		for _, name := range stray {
			c.result.Paths = append(c.result.Paths, string(c.Dir)+"/"+name)
		}
		return nil
	}
	if err := c.deleteNodes(ctx, dead); err != nil {
		return err
	}
	return c.deleteStrays(ctx, stray)
}

// strays are the entries of the store directory that are not valid paths and
// that nobody holds on to.
func (c *collection) strays(entries []string) []string {
	var out []string
	for _, name := range entries {
		if p, err := storepath.ParseBase(name); err == nil {
			if c.graph.Find(p) < 0 && !c.rooted.Has(p) && !c.tempRooted[p.HashPart()] {
				out = append(out, name)
			}
			continue
		}
		if strings.HasPrefix(name, ".nfs") || strings.HasPrefix(name, "tmp-") && c.Busy(name) {
			continue
		}
		out = append(out, name)
	}
	return out
}

// step is how much is deleted at a time: one by one when there is a limit that
// must not be overshot.
func (c *collection) step() int {
	if c.opts.MaxFreed < store.NoLimit {
		return 1
	}
	return batch
}

// deleteNodes deletes valid paths, given with referrers first.
func (c *collection) deleteNodes(ctx context.Context, dead []int32) error {
	for chunk := range slices.Chunk(dead, c.step()) {
		if err := ctx.Err(); err != nil {
			return err
		}
		// What a client asked for meanwhile is alive with all that it refers to, which
		// comes later in the list or in this chunk.
		for _, i := range chunk {
			if c.server.rooted(c.graph.Path(int(i)).HashPart()) {
				mark(c.graph, c.keeps, c.alive, int(i))
			}
		}
		var names []string
		for _, i := range chunk {
			if !c.alive.has(int(i)) {
				names = append(names, c.graph.Path(int(i)).Base())
			}
		}
		if err := c.deleteClaimed(ctx, c.server.claim(names), true); err != nil {
			return err
		}
	}
	return nil
}

func (c *collection) deleteStrays(ctx context.Context, names []string) error {
	for chunk := range slices.Chunk(names, c.step()) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.deleteClaimed(ctx, c.server.claim(chunk), false); err != nil {
			return err
		}
	}
	return nil
}

// deleteClaimed deletes what the server holds pending for us: rows first, so that
// a crash leaves strays and never valid paths without contents.
func (c *collection) deleteClaimed(ctx context.Context, names []string, valid bool) error {
	defer c.server.release()
	if valid {
		var err error
		if names, err = c.invalidate(ctx, names); err != nil {
			return err
		}
	}
	if c.Present != nil {
		names = c.Present(names)
	}
	for _, name := range names {
		activity.Logf(ctx, activity.Info, "deleting '%s'", string(c.Dir)+"/"+name)
		c.result.Paths = append(c.result.Paths, string(c.Dir)+"/"+name)
	}
	freed, err := c.Remove(ctx, names)
	c.result.BytesFreed += freed
	if err != nil {
		return err
	}
	if c.result.BytesFreed > c.opts.MaxFreed {
		activity.Logf(ctx, activity.Info, "deleted more than %d bytes; stopping", c.opts.MaxFreed)
		return errLimit
	}
	return nil
}

func (c *collection) invalidate(ctx context.Context, names []string) ([]string, error) {
	paths := make([]storepath.Path, 0, len(names))
	for _, n := range names {
		p, err := storepath.ParseBase(n)
		if err != nil {
			return nil, err
		}
		paths = append(paths, p)
	}
	inUse, err := c.Invalidate(ctx, paths)
	if err != nil {
		return nil, err
	}
	kept := storepath.NewSet(inUse...)
	for _, p := range inUse {
		if i := c.graph.Find(p); i >= 0 {
			mark(c.graph, c.keeps, c.alive, i)
		}
	}
	return slices.DeleteFunc(names, func(n string) bool {
		p, err := storepath.ParseBase(n)
		return err != nil || kept.Has(p)
	}), nil
}
