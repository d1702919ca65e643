package gc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// batch is how many paths are deleted in one transaction. Clients that want one
// of them back wait until the whole batch is out of sight.
const batch = 1024

// Parts is what a store hands to a collection of its garbage.
type Parts struct {
	Dir      storepath.Dir
	StateDir string
	// RealDir is the directory in which the objects are seen, Deletable the one in
	// which those lie that may be deleted: the same, or the upper layer of RealDir.
	RealDir, Deletable string
	// Links is the name, in both, of the directory of links of an optimised store.
	Links string
	// Graph loads what is valid, with the sizes if they are wanted. It is called once,
	// after the temporary roots have been read.
	Graph func(ctx context.Context, sizes bool) (Graph, Keeps, error)
	// Invalidate makes paths invalid in one transaction, which is on disk when it
	// returns; references among them do not matter. It gives back those that it left valid
	// because something that came meanwhile refers to them.
	Invalidate func(ctx context.Context, paths []storepath.Path) (inUse []storepath.Path, err error)
	// Aside moves entries of RealDir, and says in each how that went. nil: it takes a
	// rename.
	Aside func(ctx context.Context, moves []Move)
	// Remove deletes entries of RealDir where they are, and tells how many bytes left
	// the disk. It is for a disk on which no directory can be made any more. Names that are not
	// there are passed over.
	Remove func(ctx context.Context, names []string) (freed uint64, err error)
	// Claim locks one of Nix's temporary directories, "tmp-…" in RealDir, so that nobody
	// begins to use it before release. ok is false if somebody does.
	Claim func(name string) (release func(), ok bool)
	// SeenAt are other places at which processes may see the store directory.
	SeenAt []string
	// RootsDaemon asks a roots daemon what processes use, instead of looking.
	RootsDaemon bool
	// MoreRoots adds roots that only this store knows of; may be nil.
	MoreRoots func(ctx context.Context) (store.Roots, error)
}

// layered tells that what is not in Deletable may be in a lower.
func (p *Parts) layered() bool { return p.RealDir != p.Deletable }

// links is the directory of links in which inodes can be looked at, "" if there is
// none.
func (p *Parts) links() string {
	if p.Links == "" {
		return ""
	}
	return filepath.Join(p.Deletable, p.Links)
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
		err = c.listLive(ctx)
	case o.MaxFreed == 0: // as in Nix
	case o.Action == store.ReturnDead:
		err = c.listDead(ctx)
	default:
		err = c.deleteDead(ctx)
	}
	if errors.Is(err, errLimit) {
		err = nil
	}
	return c.result, errors.Join(err, c.tidy(ctx))
}

// FindRoots finds all roots, temporary ones included, whose paths satisfy valid.
// With censor it hides what processes and temporary roots belong to.
func FindRoots(ctx context.Context, p Parts, valid func(context.Context, []storepath.Path) ([]storepath.Path, error), censor bool) (store.Roots, error) {
	temp, err := ReadTempRoots(ctx, filepath.Join(p.StateDir, "temproots"), p.Dir) // first, see collection.load
	if err != nil {
		return nil, err
	}
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
	maps.DeleteFunc(temp, func(p storepath.Path, _ []string) bool { return IsTempName(p.Base()) })
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
	running, err := p.RuntimeRoots(ctx)
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

// RuntimeRoots are what processes use: as the roots daemon says, or as we see it. Of the parts it
// takes Dir, StateDir, SeenAt and RootsDaemon.
func (p Parts) RuntimeRoots(ctx context.Context) (store.Roots, error) {
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
	roots store.Roots // with where they come from, if somebody wants to know

	trash   *trash  // nil until something is deleted
	account *ledger // nil without a limit
	linked  uint64  // bytes that go with links at the end
	texts   texts   // of the result
	// tempRooted has hash parts, so that a root keeps <path>.lock too.
	tempRooted map[string]bool
	rooted     storepath.Set
}

// load finds the temporary roots, then the others, then the graph, then what is alive. The
// order matters: whose temporary root is gone when we look has been registered before, and
// has got the lasting root that its owner made of it, so that the graph and the links have it. Temporary
// roots that come later are told to the server.
func (c *collection) load(ctx context.Context) error {
	activity.Logf(ctx, activity.Info, "finding garbage collector roots...")
	temp, err := ReadTempRoots(ctx, filepath.Join(c.StateDir, "temproots"), c.Dir)
	if err != nil {
		return err
	}
	lasting := rootSet{}
	if !c.opts.IgnoreLiveness {
		if lasting, err = c.lastingRoots(ctx, c.opts.Survivors == 0); err != nil {
			return err
		}
	}
	if c.graph, c.keeps, err = c.Graph(ctx, c.opts.Survivors > 0); err != nil {
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
	if c.opts.Survivors > 0 {
		c.roots = store.Roots(lasting)
		merge(c.roots, temp, false)
	}
	return nil
}

func (c *collection) root(p storepath.Path) {
	c.rooted.Add(p)
	if i := c.graph.Find(p); i >= 0 {
		mark(c.graph, c.keeps, c.alive, i)
	}
}
