package binarycache

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/strata-nix/strata/narinfo"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// importRun is one call of Import: objects that are to be fetched, objects that have
// been and wait for what they refer to, and narinfos that can be written.
type importRun struct {
	s       *Store
	imports []store.Import
	o       store.ImportOptions

	mu      sync.Mutex // also makes calls of Done come one at a time
	change  *sync.Cond
	todo    []int                  // imports to be fetched, references first
	ready   []int                  // imports whose narinfo can be written
	running int                    // imports that a worker has
	at      map[storepath.Path]int // of imports that were not valid
	twins   map[int][]int          // further imports of the same path
	state   []importState
	outside storepath.Set // what is valid of what they refer to beyond
	errs    []error
}

// importState is how far an import is.
type importState struct {
	info    *narinfo.NarInfo // nil: not fetched yet
	from    *store.Offer
	settled bool // valid, or not to be had
	failed  bool
	waits   int   // imports that it refers to and that are not settled
	waiters []int // imports that wait for it
}

// newImportRun finds out what there is to do: one request for the imports, and one
// for what they refer to beyond.
func (s *Store) newImportRun(ctx context.Context, imports []store.Import, o store.ImportOptions) (*importRun, error) {
	r := &importRun{s: s, imports: imports, o: o, at: make(map[storepath.Path]int, len(imports)),
		twins: map[int][]int{}, state: make([]importState, len(imports))}
	r.change = sync.NewCond(&r.mu)
	valid, unclear, err := r.whatIsThere(ctx)
	if err != nil {
		return nil, err
	}
	for i := range imports {
		p := imports[i].Path
		if valid.Has(p) {
			continue
		}
		if first, twice := r.at[p]; twice {
			r.twins[first] = append(r.twins[first], i)
			continue
		}
		r.at[p] = i
		if unclear[p] == nil {
			r.todo = append(r.todo, i)
		}
	}
	r.sort()
	var beyond []storepath.Path
	for _, i := range r.todo {
		if info := r.firstInfo(i); info != nil {
			beyond = append(beyond, info.References...)
		}
	}
	if r.outside, _, err = s.validSet(ctx, r.beyond(beyond)); err != nil {
		return nil, err
	}
	for i := range imports {
		p := imports[i].Path
		if valid.Has(p) {
			r.tell(i, nil, nil)
		} else if unclear[p] != nil && r.at[p] == i {
			r.settle(ctx, i, unclear[p])
		}
	}
	return r, nil
}

// whatIsThere finds out which imports are valid, and of which that is not clear.
func (r *importRun) whatIsThere(ctx context.Context) (storepath.Set, map[storepath.Path]error, error) {
	if r.o.Repair {
		return nil, nil, nil
	}
	paths := make([]storepath.Path, len(r.imports))
	for i := range r.imports {
		paths[i] = r.imports[i].Path
	}
	return r.s.validSet(ctx, paths)
}

// firstInfo is what the best offer says of an import, nil if there is none.
func (r *importRun) firstInfo(i int) *store.PathInfo {
	if offers := r.imports[i].Offers; len(offers) > 0 {
		return offers[0].Info
	}
	return nil
}

// sort puts references first, as far as is known: so that narinfos can be written
// as soon as NARs are there.
func (r *importRun) sort() {
	var infos []*store.PathInfo
	var rest []int
	for _, i := range r.todo {
		if info := r.firstInfo(i); info != nil && info.Path == r.imports[i].Path {
			infos = append(infos, info)
		} else {
			rest = append(rest, i)
		}
	}
	sorted, err := store.SortByReferences(r.s.o.Dir, infos)
	if err != nil {
		return // a cycle, which shows itself when nothing else is left
	}
	r.todo = r.todo[:0]
	for _, info := range sorted {
		r.todo = append(r.todo, r.at[info.Path])
	}
	r.todo = append(r.todo, rest...)
}

// beyond gives those of paths that are none of the imports, each once.
func (r *importRun) beyond(paths []storepath.Path) (out []storepath.Path) {
	seen := storepath.Set{}
	for _, p := range paths {
		if _, ours := r.at[p]; !ours && seen.Add(p) {
			out = append(out, p)
		}
	}
	return out
}

// wake makes workers look whether they are still wanted.
func (r *importRun) wake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.change.Broadcast()
}

// work does what there is to do until nothing is left.
func (r *importRun) work(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for ctx.Err() == nil {
		switch {
		case len(r.ready) > 0:
			var i int
			i, r.ready = r.ready[0], r.ready[1:]
			info := r.state[i].info
			err := r.unlocked(func() error { return r.s.writeInfo(ctx, info) })
			r.settle(ctx, i, err)
		case len(r.todo) > 0:
			var i int
			i, r.todo = r.todo[0], r.todo[1:]
			r.fetch(ctx, i)
		case r.running > 0:
			r.change.Wait()
		case !r.breakCycle(ctx):
			return
		}
	}
}

// unlocked runs f without the lock.
func (r *importRun) unlocked(f func() error) error {
	r.running++
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.running--
		r.change.Broadcast()
	}()
	return f()
}

// fetch gets one object, and finds out what it waits for.
func (r *importRun) fetch(ctx context.Context, i int) {
	if info := r.firstInfo(i); info != nil {
		if on, doomed := r.failedReference(info); doomed {
			r.settle(ctx, i, r.dependency(i, on))
			return
		}
	}
	var info *narinfo.NarInfo
	var from *store.Offer
	err := r.unlocked(func() (err error) {
		if info, from, err = r.s.fetch(ctx, &r.imports[i], r.o.Repair); err != nil {
			return err
		}
		return r.checkBeyond(ctx, info)
	})
	if err != nil {
		r.settle(ctx, i, err)
		return
	}
	st := &r.state[i]
	st.info, st.from = info, from
	if on, doomed := r.failedReference(&info.PathInfo); doomed {
		r.settle(ctx, i, r.dependency(i, on))
		return
	}
	for _, ref := range info.References {
		if j, ours := r.at[ref]; ours && j != i && !r.state[j].settled {
			st.waits++
			r.state[j].waiters = append(r.state[j].waiters, i)
		}
	}
	if st.waits == 0 {
		r.ready = append(r.ready, i)
		r.change.Broadcast()
	}
}

// checkBeyond makes sure that what an object refers to beyond the imports is valid.
func (r *importRun) checkBeyond(ctx context.Context, info *narinfo.NarInfo) error {
	var unknown []storepath.Path
	for _, p := range r.beyond(info.References) {
		if !r.outside.Has(p) && p != info.Path {
			unknown = append(unknown, p)
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	// Perhaps it has come since, or another offer says something else.
	valid, unclear, err := r.s.validSet(ctx, unknown)
	if err != nil {
		return err
	}
	for _, p := range unknown {
		if unclear[p] != nil {
			return unclear[p]
		}
		if !valid.Has(p) {
			return &store.InvalidPathError{Path: r.s.o.Dir.Print(p), By: r.s.o.Dir.Print(info.Path)}
		}
	}
	return nil
}

// failedReference finds a reference that could not be had.
func (r *importRun) failedReference(info *store.PathInfo) (storepath.Path, bool) {
	for _, ref := range info.References {
		if j, ours := r.at[ref]; ours && r.state[j].failed {
			return ref, true
		}
	}
	return storepath.Path{}, false
}

func (r *importRun) dependency(i int, on storepath.Path) error {
	return &store.DependencyError{Path: r.s.o.Dir.Print(r.imports[i].Path), On: r.s.o.Dir.Print(on)}
}

// settle notes the outcome of an import, and what follows from it for those that
// wait for it.
func (r *importRun) settle(ctx context.Context, i int, err error) {
	if ctx.Err() != nil {
		return // it says nothing about the object
	}
	st := &r.state[i]
	st.settled, st.failed = true, err != nil
	r.tell(i, st.from, err)
	for _, w := range st.waiters {
		if r.state[w].settled {
			continue
		}
		if err != nil {
			r.settle(ctx, w, r.dependency(w, r.imports[i].Path))
		} else if r.state[w].waits--; r.state[w].waits == 0 {
			r.ready = append(r.ready, w)
		}
	}
	st.waiters, st.info = nil, nil
	r.change.Broadcast()
}

// tell tells the outcome of an import to whoever wants to know.
func (r *importRun) tell(i int, from *store.Offer, err error) {
	if err != nil {
		from = nil
		if _, follows := errors.AsType[*store.DependencyError](err); !follows {
			r.errs = append(r.errs, err)
		}
	}
	if r.o.Done == nil {
		return
	}
	r.o.Done(i, from, err)
	for _, twin := range r.twins[i] {
		r.o.Done(twin, from, err)
	}
}

// breakCycle fails an import that waits for ever, and tells whether there was one.
func (r *importRun) breakCycle(ctx context.Context) bool {
	for i := range r.state {
		if st := &r.state[i]; st.info != nil && !st.settled {
			r.settle(ctx, i, fmt.Errorf("cycle detected in the references of '%s'", r.s.o.Dir.Print(r.imports[i].Path)))
			return true
		}
	}
	return false
}
