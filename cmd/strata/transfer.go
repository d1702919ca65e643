package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/binarycache"
	"github.com/strata-nix/strata/storepath"
)

// transfer copies objects from one store to another.
type transfer struct {
	src, dst    store.Store
	noCheckSigs bool
	jobs        int // 0: as many as the destination likes

	items   []item // what the destination has not, references first
	present int    // how many of those that are wanted it has
	there   []item // which ones
	repair  bool   // items are of some that the destination has and is to get anew
}

// item is an object on its way.
type item struct {
	from *store.PathInfo // as the source knows it
	to   *store.PathInfo // as the destination will, the same unless their directories differ
}

// plan finds out what the destination lacks.
func (t *transfer) plan(ctx context.Context, infos []*store.PathInfo) error {
	items := make([]item, len(infos))
	paths := make([]storepath.Path, len(infos))
	for i, info := range infos {
		to, err := t.retarget(info)
		if err != nil {
			return err
		}
		items[i], paths[i] = item{info, to}, to.Path
	}
	valid, err := t.dst.ValidPaths(ctx, paths)
	if err != nil && !errors.Is(err, binarycache.ErrNotCache) { // the first object makes it one
		return err
	}
	there := storepath.NewSet(valid...)
	for _, it := range items {
		if there.Has(it.to.Path) {
			t.present++
			t.there = append(t.there, it)
		} else {
			t.items = append(t.items, it)
		}
	}
	return nil
}

// retarget gives what an object is in the destination. With another directory its
// path is another one, too: that can only be said of what is content-addressed and
// refers to nothing.
func (t *transfer) retarget(info *store.PathInfo) (*store.PathInfo, error) {
	to := info.Clone()
	to.Ultimate = false // it was built elsewhere
	if t.src.Dir() == t.dst.Dir() {
		return to, nil
	}
	refuse := func(why string) error {
		return fmt.Errorf("cannot copy '%s' to '%s', whose store directory is '%s' and not '%s': it %s",
			t.src.Dir().Print(info.Path), t.dst.URI(), t.dst.Dir(), t.src.Dir(), why)
	}
	switch {
	case info.CA.IsZero():
		return nil, refuse("is not content-addressed")
	case len(info.References) > 0:
		return nil, refuse("refers to other paths")
	}
	p, err := t.dst.Dir().Make(info.Path.Name(), info.CA, storepath.References{})
	if err != nil {
		return nil, err
	}
	to.Path, to.Deriver, to.Signatures = p, storepath.Path{}, nil // they are about the other path
	return to, nil
}

// size is how many bytes of NARs have to be copied.
func (t *transfer) size() (total uint64) {
	for _, it := range t.items {
		total += it.from.NarSize
	}
	return total
}

// paths are those that the destination lacks, with its own names.
func (t *transfer) paths() []storepath.Path {
	paths := make([]storepath.Path, len(t.items))
	for i, it := range t.items {
		paths[i] = it.to.Path
	}
	return paths
}

// substitute lets the destination get what it can from its own substituters. What
// fails there is left to be copied.
func (t *transfer) substitute(ctx context.Context) error {
	if len(t.items) == 0 {
		return nil
	}
	q, err := store.Need[store.SubstituterQuerier](t.dst, "querySubstitutablePathInfos")
	if err != nil {
		return err
	}
	b, err := store.Need[store.Builder](t.dst, "buildPaths")
	if err != nil {
		return err
	}
	cas := make([]storepath.ContentAddress, len(t.items))
	for i, it := range t.items {
		cas[i] = it.to.CA
	}
	found, err := q.Substitutables(ctx, t.paths(), cas)
	if err != nil {
		return err
	}
	var targets []derivation.DerivedPath
	for _, f := range found {
		if f != nil {
			targets = append(targets, derivation.DerivedPath{Path: f.Path})
		}
	}
	if len(targets) == 0 {
		return nil
	}
	results, err := b.BuildPaths(ctx, targets, store.BuildNormal)
	if err != nil {
		return err
	}
	got := storepath.Set{}
	for _, r := range results {
		if r.Status.OK() {
			got.Add(r.Path.Path)
		} else {
			activity.Warnf(ctx, "'%s' cannot substitute '%s': %s", t.dst.URI(), t.dst.Dir().Print(r.Path.Path), r.Message)
		}
	}
	items := t.items
	t.items = nil
	for _, it := range items {
		if got.Has(it.to.Path) {
			t.present++
		} else {
			t.items = append(t.items, it)
		}
	}
	return nil
}

// run copies, several objects at a time if the destination can, and tells done of
// each that is valid then.
func (t *transfer) run(ctx context.Context, done func(storepath.Path)) error {
	if len(t.items) == 0 {
		return nil
	}
	ctx, act := activity.Start(ctx, activity.Info, activity.CopyPaths, "")
	defer act.Stop()
	act.Result(activity.SetExpected, activity.Int(uint64(activity.CopyPath)), activity.Int(t.size()))
	ao := store.AddOptions{NoCheckSigs: t.noCheckSigs}
	if im, ok := store.As[store.Importer](t.dst); ok {
		if r, ok := store.As[store.TempRooter](t.dst); ok {
			ao.Roots = r.NewTempRoots()
			defer ao.Roots.Close()
		}
		return t.runParallel(ctx, act, im, ao, done)
	}
	// A daemon keeps what it is given for as long as the request, and nobody needs it
	// longer: to ask it for roots, too, would take a round trip for each object.
	objects := &objectsOf{ctx: ctx, t: t, total: act}
	defer objects.close()
	if err := store.AddMultiple(ctx, t.dst, objects, ao); err != nil {
		return err
	}
	for _, it := range t.items {
		done(it.to.Path)
	}
	return nil
}

func (t *transfer) runParallel(ctx context.Context, act *activity.Activity, im store.Importer, ao store.AddOptions, done func(storepath.Path)) error {
	imports := make([]store.Import, len(t.items))
	for i, it := range t.items {
		imports[i] = store.Import{Path: it.to.Path, Offers: []store.Offer{{
			Info: it.to,
			From: t.src.URI(),
			Open: func(ctx context.Context) (io.ReadCloser, error) { return t.open(ctx, it) },
		}}}
	}
	var copied, failed uint64
	if t.repair {
		ao.Repair = true // what is not there is added all the same
	}
	return im.Import(ctx, imports, store.ImportOptions{
		AddOptions: ao,
		Jobs:       t.parallel(),
		Done: func(i int, _ *store.Offer, err error) {
			if err != nil {
				failed++
			} else {
				copied++
				done(imports[i].Path)
			}
			act.Progress(copied, uint64(len(imports)), 0, failed)
		},
	})
}

// parallel is how many objects are copied at once. Those of a directory on this machine
// keep nobody waiting: more at once than processors can work at take only memory.
func (t *transfer) parallel() int {
	if t.jobs == 0 && strings.HasPrefix(t.src.URI(), "file:") {
		return 2 * runtime.GOMAXPROCS(0)
	}
	return t.jobs
}

// open begins to give the NAR of an object, and tells how far it is.
func (t *transfer) open(ctx context.Context, it item) (io.ReadCloser, error) {
	path := t.src.Dir().Print(it.from.Path)
	ctx, act := activity.Start(ctx, activity.Info, activity.CopyPath, fmt.Sprintf("copying path '%s'", path),
		activity.Text(path), activity.Text(t.src.URI()), activity.Text(t.dst.URI()))
	r, err := store.OpenNar(ctx, t.src, it.from.Path)
	if err != nil {
		act.Stop()
		return nil, err
	}
	return &toldReader{ReadCloser: r, act: act, size: it.from.NarSize}, nil
}

// toldReader tells how much has been read.
type toldReader struct {
	io.ReadCloser
	act              *activity.Activity
	done, told, size uint64
	once             sync.Once
}

// tellEvery is after how many bytes that is told.
const tellEvery = 256 << 10

// Read reads.
func (r *toldReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.done += uint64(n)
	if r.done-r.told >= tellEvery || r.done == r.size && r.told < r.done {
		r.told = r.done
		r.act.Progress(r.done, r.size, 0, 0)
	}
	return n, err
}

// Close ends it.
func (r *toldReader) Close() error {
	r.once.Do(r.act.Stop)
	return r.ReadCloser.Close()
}

// realise registers realisations in the destination, if it keeps some.
func (t *transfer) realise(ctx context.Context, rs []*store.Realisation) error {
	if len(rs) == 0 {
		return nil
	}
	if t.src.Dir() != t.dst.Dir() {
		return errors.New("realisations cannot be copied to a store with another directory")
	}
	r, ok := store.As[store.RealisationRegistrar](t.dst)
	if !ok {
		activity.Warnf(ctx, "'%s' does not keep what outputs of content-addressed derivations are", t.dst.URI())
		return nil
	}
	return r.RegisterRealisations(ctx, rs)
}
