package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// layerFile is where a layer has the object of a path.
func (x *examination) layerFile(layer int, p storepath.Path) string {
	return filepath.Join(x.Layers[layer].Dir, p.Base())
}

// realPath is where the object of a path shows.
func (x *examination) realPath(p storepath.Path) string {
	if !x.mounted {
		return x.layerFile(0, p)
	}
	return filepath.Join(x.RealDir, p.Base())
}

// info gives what the layer says of a path, nil if it is not valid there.
func (l *Layer) info(ctx context.Context, p storepath.Path) (*store.PathInfo, error) {
	infos, err := l.Store.PathInfos(ctx, []storepath.Path{p})
	if err != nil {
		return nil, err
	}
	return infos[0], nil
}

// mendObject brings an object back that is lost or not what it should be.
func mendObject(ctx context.Context, r *repairs, f *Finding) error {
	info, err := r.Layers[0].info(ctx, f.path)
	switch {
	case err != nil:
		return err
	case info == nil && f.layer == 0:
		return nil // it is not valid any more
	case info == nil:
		return errOfLower // and the upper does not need it
	case f.layer != 0:
		if l := r.linesOf(ctx, []string{f.name}); l[0].at[0].object() {
			return errOfLower // and the upper has its own
		}
	}
	return r.restore(ctx, f, info)
}

// restore gets the object of a path from wherever it can be had with the contents that
// are registered: from another layer, which costs least, from a substituter, from a new
// build.
func (r *repairs) restore(ctx context.Context, f *Finding, info *store.PathInfo) error {
	if err := r.forgetViews(ctx); err != nil {
		return err
	}
	if f.Code != LowerRowMissing && r.intact(ctx, info) {
		return nil // somebody else has done it
	}
	path := r.Dir.Print(info.Path)
	why := fmt.Errorf("cannot repair path '%s'", path)
	silent := false // a substituter may be
	for _, way := range []struct {
		from string
		get  func(context.Context, *store.PathInfo) error
	}{
		{"another layer", r.fromLayers},
		{fromSubstituters, r.Tools.Fetch},
		{"a new build", r.Tools.Rebuild},
	} {
		if way.get == nil {
			continue
		}
		if err := r.keepIfClaimed(ctx, info); err != nil {
			return err
		}
		err := way.get(ctx, info)
		crashpoint.Reached("check: object brought back from " + way.from)
		if err == nil && !r.intact(ctx, info) {
			err = errors.New("the result is not what is registered")
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			activity.Logf(ctx, activity.Talkative, "repaired path '%s' from %s", path, way.from)
			return nil
		}
		silent = silent || way.from == fromSubstituters && errors.Is(err, store.ErrInconclusive)
		why = fmt.Errorf("%w; from %s: %w", why, way.from, err)
	}
	switch {
	case silent:
		return fmt.Errorf("%w; %w; where a substituter is down for good, --option substituters '' asks none", why, errMayBeHad)
	case errors.Is(why, store.ErrInconclusive):
		return fmt.Errorf("%w; %w", why, errMayBeHad)
	}
	return r.drop(ctx, f, why)
}

const fromSubstituters = "substituters"

// errMayBeHad says why nothing is given up although that is asked for.
var errMayBeHad = errors.New("it is not given up, since it may be to be had all the same")

// keepIfClaimed notes that the upper is about to get a copy of what a lower claims to have.
func (r *repairs) keepIfClaimed(ctx context.Context, info *store.PathInfo) error {
	l := &r.linesOf(ctx, []string{info.Path.Base()})[0]
	if i := l.shown(); i == 0 || !l.at[i].row || l.at[i].hash != info.NarHash || r.holds(ctx, r.layerFile(i, info.Path), info) {
		return nil
	}
	return r.keep(info.Path)
}

// forgetViews makes the kernel forget, once, what it has seen of layers that have lost it.
func (r *repairs) forgetViews(ctx context.Context) error {
	if r.refreshed || len(r.Layers) == 1 || !r.mounted {
		return nil
	}
	r.refreshed = true
	return r.refresh(ctx)
}

// intact tells whether what shows is what is registered.
func (r *repairs) intact(ctx context.Context, info *store.PathInfo) bool {
	return r.holds(ctx, r.realPath(info.Path), info)
}

// holds tells whether a tree has the contents that are registered.
func (r *repairs) holds(ctx context.Context, path string, info *store.PathInfo) bool {
	h, err := hashObject(ctx, path, nil)
	return err == nil && h.hash == info.NarHash
}

// fromLayers takes an object from a lower that has it: by letting it show, or by
// copying it.
func (r *repairs) fromLayers(ctx context.Context, info *store.PathInfo) error {
	lines := r.linesOf(ctx, []string{info.Path.Base()})
	l := &lines[0]
	none := errors.New("none has it")
	for i := 1; i < len(l.at); i++ {
		if l.at[i].unknown {
			none = store.Inconclusive(fmt.Errorf("layer '%s' could not be asked", r.Layers[i].Name))
			continue
		}
		if !l.at[i].object() || !r.holds(ctx, r.layerFile(i, info.Path), info) {
			continue
		}
		if l.at[0].object() && i == l.shown() && l.at[i].row && r.Tools.Remove != nil {
			return store.Inconclusive(r.Tools.Remove(ctx, []string{l.name}))
		}
		if r.Tools.Add == nil {
			return errNothingKnown
		}
		return store.Inconclusive(r.add(ctx, info, r.layerFile(i, info.Path))) // it is there
	}
	return none
}

// add puts a copy of a tree in the place of an object.
func (r *repairs) add(ctx context.Context, info *store.PathInfo, from string) error {
	read, write := io.Pipe()
	go func() { write.CloseWithError(nar.Dump(ctx, write, from)) }()
	return errors.Join(r.Tools.Add(ctx, info, read), read.Close())
}

// mendMerged makes one object of a directory that is mixed with a lower's: the upper's
// own part if that is the whole, else the lower's, else another copy.
func mendMerged(ctx context.Context, r *repairs, f *Finding) error {
	info, err := r.Layers[0].info(ctx, f.path)
	if err != nil || info == nil {
		return err
	}
	upper := r.layerFile(0, f.path)
	lines := r.linesOf(ctx, []string{f.name})
	i := lines[0].shown()
	switch {
	case i == 0:
		return nil
	case r.holds(ctx, upper, info):
		if err := overlayfs.MarkComplete(upper); err != nil {
			return err
		}
		crashpoint.Reached("check: object made opaque")
		return r.refresh(ctx)
	case r.holds(ctx, r.layerFile(i, f.path), info) && r.Tools.Remove != nil:
		if err := r.leanOn(ctx, f); err != nil {
			return err
		}
		err := r.Tools.Remove(ctx, []string{f.name})
		crashpoint.Reached("check: part of an object deleted")
		return err
	}
	return r.restore(ctx, f, info)
}

func (r *repairs) refresh(ctx context.Context) error {
	if r.Tools.Refresh == nil {
		return errNothingKnown
	}
	return r.Tools.Refresh(ctx)
}

// mendLost forgets rows without objects that nothing needs, and brings the others back.
func mendLost(ctx context.Context, r *repairs, fs []*Finding) {
	own := map[storepath.Path]*Finding{}
	for _, f := range fs {
		if f.layer == 0 {
			own[f.path] = f
		} else if r.opts.Repair {
			r.settle(ctx, f, errOfLower)
		}
	}
	needed, err := r.needed(ctx, own)
	if err != nil {
		for _, f := range own {
			r.settle(ctx, f, err)
		}
		return
	}
	var forget []storepath.Path
	for p := range own {
		if !needed.Has(p) {
			forget = append(forget, p)
		}
	}
	r.forget(ctx, own, storepath.SortUnique(forget))
	for _, p := range needed.Sorted() {
		if f := own[p]; !f.told {
			f.told = true
			activity.Logf(ctx, activity.Error, disappeared, r.Dir.Print(p))
		}
	}
	if !r.opts.Repair {
		return
	}
	var rest []*Finding
	for p := range needed {
		rest = append(rest, own[p])
	}
	r.sort(ctx, rest)
	for _, f := range rest {
		if ctx.Err() != nil {
			return
		}
		r.settle(ctx, f, mendObject(ctx, r, f))
	}
}

// needed gives those of lost paths that something refers to which is there, perhaps by
// way of others that are lost.
func (r *repairs) needed(ctx context.Context, lost map[storepath.Path]*Finding) (storepath.Set, error) {
	paths := make([]storepath.Path, 0, len(lost))
	for p := range lost {
		paths = append(paths, p)
	}
	paths = storepath.SortUnique(paths)
	lists, err := r.Layers[0].DB.Referrers(ctx, paths)
	if err != nil {
		return nil, err
	}
	// refs has what each lost path refers to that is lost too.
	refs := map[storepath.Path][]storepath.Path{}
	needed := storepath.Set{}
	var need func(p storepath.Path)
	need = func(p storepath.Path) {
		if needed.Add(p) {
			for _, q := range refs[p] {
				need(q)
			}
		}
	}
	for i, p := range paths {
		for _, by := range lists[i] {
			if lost[by] != nil {
				refs[by] = append(refs[by], p)
			}
		}
	}
	for i, p := range paths {
		if slices.ContainsFunc(lists[i], func(by storepath.Path) bool { return lost[by] == nil }) {
			need(p)
		}
	}
	return needed, nil
}

// forget makes paths invalid whose objects are gone and that nothing needs.
func (r *repairs) forget(ctx context.Context, own map[storepath.Path]*Finding, paths []storepath.Path) {
	if len(paths) == 0 {
		return
	}
	err := r.locked(ctx, func() error {
		for i, l := range r.linesOf(ctx, names(paths)) {
			if l.at[0].object() || !l.certain() {
				paths[i] = storepath.Path{} // it is back
			}
		}
		still := slices.DeleteFunc(slices.Clone(paths), storepath.Path.IsZero)
		for _, p := range still {
			activity.Logf(ctx, activity.Info, "path '%s' disappeared, removing from database...", r.Dir.Print(p))
		}
		return r.Layers[0].DB.Invalidate(ctx, still)
	})
	crashpoint.Reached("check: rows without objects deleted")
	for _, p := range paths {
		if f := own[p]; f != nil {
			r.settle(ctx, f, err)
		}
	}
}

func names(paths []storepath.Path) []string {
	out := make([]string, len(paths))
	for i, p := range paths {
		out[i] = p.Base()
	}
	return out
}

// sort puts findings in the order in which references come first, so that what is built
// anew finds what it needs.
func (r *repairs) sort(ctx context.Context, fs []*Finding) {
	slices.SortFunc(fs, func(a, b *Finding) int { return storepath.Compare(a.path, b.path) })
	if len(fs) < 2 || r.Layers[0].DB == nil {
		return
	}
	g, err := r.Layers[0].DB.Graph(ctx)
	if err != nil {
		return // then in any order
	}
	wanted := map[int32]*Finding{}
	var roots []int32
	for _, f := range fs {
		if i := g.Find(f.path); i >= 0 {
			wanted[int32(i)] = f //nolint:gosec // a Graph has no more
			roots = append(roots, int32(i))
		}
	}
	var sorted []*Finding
	for i := range postorder(g, roots) {
		if f := wanted[i]; f != nil {
			sorted = append(sorted, f)
		}
	}
	if len(sorted) == len(fs) {
		copy(fs, sorted)
	}
}
