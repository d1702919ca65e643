package execute

import (
	"context"
	"fmt"
	"io"
	"iter"
	"sync"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// restricted is the store as a builder may use it: what its inputs are, and what it
// has added or built itself. All else might as well not be there.
//
// Source: src/libstore/restricted-store.cc of upstream.
type restricted struct {
	next  store.Store
	roots store.TempRoots
	// show makes a path appear in the sandbox that was not there.
	show func(ctx context.Context, p storepath.Path) error

	mu      sync.Mutex
	inputs  storepath.Set
	added   storepath.Set
	outputs map[store.DrvOutput]bool // realisations that the builder has caused
}

// What a builder can do.
var _ interface {
	store.Store
	store.Lister
	store.ReferrerQuerier
	store.OutputQuerier
	store.RealisationQuerier
	store.NarSource
	store.Adder
	store.DumpAdder
	store.Ensurer
	store.Planner
	store.Builder
	store.TempRooter
	store.RootKeeper
	store.Truster
} = (*restricted)(nil)

func newRestricted(next store.Store, job *Job, show func(context.Context, storepath.Path) error) *restricted {
	r := &restricted{next: next, roots: job.Roots, show: show, inputs: storepath.Set{}, added: storepath.Set{}, outputs: map[store.DrvOutput]bool{}}
	for _, info := range job.Inputs {
		r.inputs.Add(info.Path)
	}
	return r
}

// Dir is that of the store below.
func (r *restricted) Dir() storepath.Dir { return r.next.Dir() }

// URI is that of the store below.
func (r *restricted) URI() string { return r.next.URI() }

// Close does nothing: the store below belongs to others.
func (r *restricted) Close() error { return nil }

// Trust is none.
func (r *restricted) Trust(context.Context) (store.Trust, error) { return store.NotTrusted, nil }

func (r *restricted) allowed(p storepath.Path) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.inputs.Has(p) || r.added.Has(p)
}

// add allows paths, which are valid, and shows those that are new.
func (r *restricted) add(ctx context.Context, paths ...storepath.Path) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range paths {
		if r.inputs.Has(p) || r.added.Has(p) {
			continue
		}
		if err := r.show(ctx, p); err != nil {
			return fmt.Errorf("could not add path '%s' to sandbox: %w", r.Dir().Print(p), err)
		}
		r.added.Add(p)
	}
	return nil
}

// Added are the paths that have been added, sorted.
func (r *restricted) Added() []storepath.Path {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.added.Sorted()
}

// unknown is the error about a path that the builder has no business with.
func (r *restricted) unknown(what string, p storepath.Path) error {
	return fmt.Errorf("cannot %s '%s' in recursive Nix: %w", what, r.Dir().Print(p), &store.InvalidPathError{Path: r.Dir().Print(p)})
}

// ValidPaths gives those that are allowed, which all are valid.
func (r *restricted) ValidPaths(_ context.Context, paths []storepath.Path) ([]storepath.Path, error) {
	var valid []storepath.Path
	for _, p := range paths {
		if r.allowed(p) {
			valid = append(valid, p)
		}
	}
	return valid, nil
}

// PathInfos leaves out what differs from machine to machine.
func (r *restricted) PathInfos(ctx context.Context, paths []storepath.Path) ([]*store.PathInfo, error) {
	infos := make([]*store.PathInfo, len(paths))
	valid, _ := r.ValidPaths(ctx, paths)
	found, err := r.next.PathInfos(ctx, valid)
	if err != nil {
		return nil, err
	}
	byPath := make(map[storepath.Path]*store.PathInfo, len(found))
	for _, info := range found {
		if info != nil {
			c := info.Clone()
			c.Deriver, c.Registered, c.Ultimate, c.Signatures = storepath.Path{}, 0, false, nil
			byPath[c.Path] = c
		}
	}
	for i, p := range paths {
		infos[i] = byPath[p]
	}
	return infos, nil
}

// AllPaths lists what is allowed.
func (r *restricted) AllPaths(context.Context) iter.Seq2[storepath.Path, error] {
	r.mu.Lock()
	all := append(r.inputs.Sorted(), r.added.Sorted()...)
	r.mu.Unlock()
	return func(yield func(storepath.Path, error) bool) {
		for _, p := range all {
			if !yield(p, nil) {
				return
			}
		}
	}
}

// Referrers knows none.
func (r *restricted) Referrers(_ context.Context, paths []storepath.Path) ([][]storepath.Path, error) {
	return make([][]storepath.Path, len(paths)), nil
}

// DerivationOutputs asks the store below about an allowed derivation.
func (r *restricted) DerivationOutputs(ctx context.Context, drv storepath.Path) (map[string]storepath.Path, error) {
	if !r.allowed(drv) {
		return nil, r.unknown("query output map for unknown path", drv)
	}
	q, err := store.Need[store.OutputQuerier](r.next, "queryDerivationOutputMap")
	if err != nil {
		return nil, err
	}
	return q.DerivationOutputs(ctx, drv)
}

// Realisations knows those that the builder has caused.
func (r *restricted) Realisations(ctx context.Context, ids []store.DrvOutput) ([]*store.Realisation, error) {
	found := make([]*store.Realisation, len(ids))
	q, ok := store.As[store.RealisationQuerier](r.next)
	if !ok {
		return found, nil
	}
	for i, id := range ids {
		r.mu.Lock()
		known := r.outputs[id]
		r.mu.Unlock()
		if !known {
			continue
		}
		one, err := q.Realisations(ctx, []store.DrvOutput{id})
		if err != nil {
			return nil, err
		}
		found[i] = one[0]
	}
	return found, nil
}

// NarFromPath dumps an allowed path.
func (r *restricted) NarFromPath(ctx context.Context, p storepath.Path, w io.Writer) error {
	if !r.allowed(p) {
		return r.unknown("dump unknown path", p)
	}
	source, err := store.Need[store.NarSource](r.next, "narFromPath")
	if err != nil {
		return err
	}
	return source.NarFromPath(ctx, p, w)
}

// EnsurePath has nothing to do: what is allowed is valid.
func (r *restricted) EnsurePath(_ context.Context, p storepath.Path) error {
	if !r.allowed(p) {
		return r.unknown("substitute unknown path", p)
	}
	return nil
}

// Add adds an object, which becomes an input. A builder repairs nothing.
func (r *restricted) Add(ctx context.Context, info *store.PathInfo, nar io.Reader, _ store.AddOptions) error {
	a, err := store.Need[store.Adder](r.next, "addToStore")
	if err != nil {
		return err
	}
	if err := r.checkReferences(info.Path, info.References); err != nil {
		return err
	}
	if err := a.Add(ctx, info, nar, store.AddOptions{Roots: r.roots}); err != nil {
		return err
	}
	return r.add(ctx, info.Path)
}

// AddDump adds an object, which becomes an input.
func (r *restricted) AddDump(ctx context.Context, d store.Dump, _ store.AddOptions) (*store.PathInfo, error) {
	a, err := store.Need[store.DumpAdder](r.next, "addToStoreFromDump")
	if err != nil {
		return nil, err
	}
	if err := r.checkReferences(storepath.Path{}, d.References); err != nil {
		return nil, err
	}
	info, err := a.AddDump(ctx, d, store.AddOptions{Roots: r.roots})
	if err != nil {
		return nil, err
	}
	return info, r.add(ctx, info.Path)
}

// checkReferences lets nothing refer to what the builder does not know, which
// would come with it.
func (r *restricted) checkReferences(self storepath.Path, refs []storepath.Path) error {
	for _, p := range refs {
		if p != self && !r.allowed(p) {
			return r.unknown("add a reference to unknown path", p)
		}
	}
	return nil
}

// BuildPaths builds outputs of allowed derivations, whose closures become inputs.
func (r *restricted) BuildPaths(ctx context.Context, targets []derivation.DerivedPath, mode store.BuildMode) ([]*store.BuildResult, error) {
	if mode != store.BuildNormal {
		return nil, fmt.Errorf("unsupported build mode")
	}
	for _, t := range targets {
		if !r.allowed(t.Path) {
			return nil, r.unknown("build because path is unknown:", t.Path)
		}
	}
	b, err := store.Need[store.Builder](r.next, "buildPaths")
	if err != nil {
		return nil, err
	}
	if r.roots != nil {
		ctx = store.WithTempRoots(ctx, r.roots)
	}
	results, err := b.BuildPaths(ctx, targets, mode)
	if err != nil {
		return nil, err
	}
	return results, r.addBuilt(ctx, results)
}

func (r *restricted) addBuilt(ctx context.Context, results []*store.BuildResult) error {
	var built []storepath.Path
	for _, res := range results {
		if res == nil || !res.Status.OK() {
			continue
		}
		for _, real := range res.Outputs {
			built = append(built, real.OutPath)
			r.mu.Lock()
			r.outputs[real.ID] = true
			r.mu.Unlock()
		}
	}
	infos, err := store.Closure(ctx, r.next, storepath.SortUnique(built))
	if err != nil {
		return err
	}
	for _, info := range infos {
		if err := r.add(ctx, info.Path); err != nil {
			return err
		}
	}
	return nil
}

// QueryMissing plans for what is allowed; the rest is unknown.
func (r *restricted) QueryMissing(ctx context.Context, targets []derivation.DerivedPath) (*store.Missing, error) {
	var known []derivation.DerivedPath
	var unknown []storepath.Path
	for _, t := range targets {
		if r.allowed(t.Path) {
			known = append(known, t)
		} else {
			unknown = append(unknown, t.Path)
		}
	}
	p, err := store.Need[store.Planner](r.next, "queryMissing")
	if err != nil {
		return nil, err
	}
	m, err := p.QueryMissing(ctx, known)
	if err != nil {
		return nil, err
	}
	all := *m
	all.Unknown = storepath.SortUnique(append(unknown, m.Unknown...))
	return &all, nil
}

// NewTempRoots gives none: what the builder adds lives as long as the build.
func (r *restricted) NewTempRoots() store.TempRoots { return noRoots{} }

// AddIndirectRoot does nothing.
func (r *restricted) AddIndirectRoot(context.Context, string) error { return nil }

// AddPermRoot makes no root.
func (r *restricted) AddPermRoot(context.Context, storepath.Path, string) (string, error) {
	return "", &store.UnsupportedError{Op: "addPermRoot", Store: r.URI()}
}

// noRoots are roots that keep nothing.
type noRoots struct{}

func (noRoots) Add(context.Context, []storepath.Path) error { return nil }
func (noRoots) Close() error                                { return nil }
