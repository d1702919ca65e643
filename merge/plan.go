package merge

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Options say what gets in.
type Options struct {
	// Roots, if not nil, are the paths that get in, with what they refer to; of layers
	// with Take All then nothing else is taken, either.
	Roots []storepath.Path
}

// Plan is what would get in. It takes some 150 bytes of memory a path.
type Plan struct {
	dir    storepath.Dir
	layers []Layer
	items  []item // by path

	// Objects are taken, NarBytes is the sum of their sizes as NARs. Leaning are paths
	// whose objects have to be in a store below.
	Objects, Leaning int
	NarBytes         uint64
	// Missing are those of the latter whose objects are in none of the layers, not even
	// in those that take no part, by path.
	Missing []storepath.Path
	// Conflicts are paths that several layers have that take part, with different
	// contents, by path. The first layer's object is the one that is planned.
	Conflicts []Conflict
}

// item is a path that gets in.
type item struct {
	path storepath.Path
	from int32 // layer of the path info
	dir  int32 // layer of the object; none: it is leaned on
}

const (
	none = -1
	// batch is how many paths a layer is asked about at a time.
	batch = 1000
)

// Each calls f for all objects that get in, by path, with the name of their layer.
func (p *Plan) Each(f func(path storepath.Path, layer string)) {
	for _, it := range p.items {
		if it.dir != none {
			f(it.path, p.layers[it.dir].Name)
		}
	}
}

// Of gives the paths whose objects are taken from the layer with that number.
func (p *Plan) Of(layer int) (out []storepath.Path) {
	for _, it := range p.items {
		if it.dir == int32(layer) { //nolint:gosec // few layers
			out = append(out, it.path)
		}
	}
	return out
}

// MakePlan finds out what gets in, without writing anything. The layers must be stores
// of one store directory.
func MakePlan(ctx context.Context, layers []Layer, o Options) (*Plan, error) {
	if len(layers) == 0 {
		return nil, errors.New("there are no layers to make a store of")
	}
	p := &planner{
		Plan: Plan{dir: layers[0].Store.Dir(), layers: layers},
		seen: make(map[storepath.Path]struct{}),
	}
	if err := p.start(ctx, o); err != nil {
		return nil, err
	}
	for len(p.queue) > 0 {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		n := min(batch, len(p.queue))
		next := p.queue[:n:n]
		p.queue = p.queue[n:]
		if err := p.look(ctx, next); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(p.items, func(a, b item) int { return strings.Compare(a.path.Base(), b.path.Base()) })
	p.Missing = storepath.SortUnique(p.Missing)
	slices.SortFunc(p.Conflicts, func(a, b Conflict) int { return storepath.Compare(a.Path, b.Path) })
	return &p.Plan, nil
}

type planner struct {
	Plan
	seen  map[storepath.Path]struct{}
	queue []wanted
}

// wanted is a path that gets in, and what refers to it.
type wanted struct {
	path, by storepath.Path
	// listed tells that nothing needs it: it is left out if its object is nowhere.
	listed bool
}

func (p *planner) want(w wanted) {
	if _, ok := p.seen[w.path]; !ok {
		p.seen[w.path] = struct{}{}
		p.queue = append(p.queue, w)
	}
}

// start wants what gets in without anybody referring to it.
func (p *planner) start(ctx context.Context, o Options) error {
	for _, path := range o.Roots {
		p.want(wanted{path: path})
	}
	if o.Roots != nil {
		return nil
	}
	for i := range p.layers {
		l := &p.layers[i]
		if l.Take != All {
			continue
		}
		paths, err := l.list(ctx)
		if err != nil {
			return err
		}
		for _, path := range paths {
			if _, ok := p.seen[path]; ok {
				continue
			}
			has, err := l.has(path)
			if err != nil {
				return err
			}
			if has {
				p.want(wanted{path: path, listed: true})
			}
		}
	}
	return nil
}

// found is what layers know about one path.
type found struct {
	item
	info  *store.PathInfo
	below bool // its object is in a layer of which none is taken
}

// look finds out about some paths, and wants what they refer to.
func (p *planner) look(ctx context.Context, some []wanted) error {
	paths := make([]storepath.Path, len(some))
	for i, w := range some {
		paths[i] = w.path
	}
	all := make([]found, len(some))
	for i := range all {
		all[i].item = item{path: paths[i], from: none, dir: none}
	}
	for n := range p.layers {
		l := &p.layers[n]
		infos, err := l.Store.PathInfos(ctx, paths)
		if err != nil {
			return l.wrap(err)
		}
		for i, info := range infos {
			if info == nil {
				continue
			}
			if err := p.meet(&all[i], n, info); err != nil {
				return err
			}
		}
	}
	for i, f := range all {
		if err := p.add(some[i], f); err != nil {
			return err
		}
	}
	return nil
}

// meet takes in what a layer knows about a path.
func (p *planner) meet(f *found, layer int, info *store.PathInfo) error {
	l := &p.layers[layer]
	if f.dir != none && l.Take != Infos && info.NarHash != f.info.NarHash {
		has, err := l.has(f.path)
		if has {
			p.Conflicts = append(p.Conflicts, Conflict{f.path, p.layers[f.dir].Name, l.Name, f.info.NarHash, info.NarHash})
		}
		return err
	}
	if f.dir != none {
		return nil
	}
	has, err := l.has(f.path)
	if err != nil {
		return err
	}
	if has && l.Take == Infos {
		has, f.below = false, true
	}
	if has {
		f.dir = int32(layer) //nolint:gosec // few layers
	}
	if f.from == none || has && info.NarHash != f.info.NarHash {
		// What goes with an object is what its own layer says of it.
		f.from, f.info = int32(layer), info //nolint:gosec // few layers
	}
	return nil
}

func (p *planner) add(w wanted, f found) error {
	switch {
	case w.listed && f.dir == none:
		return nil // deleted meanwhile
	case f.from == none:
		e := &store.InvalidPathError{Path: p.dir.Print(w.path)}
		if !w.by.IsZero() {
			e.By = p.dir.Print(w.by)
		}
		return e
	case f.dir != none:
		p.Objects++
		p.NarBytes += f.info.NarSize
	default:
		p.Leaning++
		if !f.below {
			p.Missing = append(p.Missing, w.path)
		}
	}
	p.items = append(p.items, f.item)
	for _, ref := range f.info.References {
		p.want(wanted{path: ref, by: w.path})
	}
	return nil
}

// infos gives the path infos of some items, which must still be valid.
func (p *Plan) infos(ctx context.Context, items []item) ([]*store.PathInfo, error) {
	out := make([]*store.PathInfo, len(items))
	for n := range p.layers {
		var paths []storepath.Path
		var at []int
		for i, it := range items {
			if int(it.from) == n {
				paths, at = append(paths, it.path), append(at, i)
			}
		}
		if len(paths) == 0 {
			continue
		}
		infos, err := p.layers[n].Store.PathInfos(ctx, paths)
		if err != nil {
			return nil, p.layers[n].wrap(err)
		}
		for i, info := range infos {
			if info == nil {
				return nil, p.layers[n].wrap(&store.InvalidPathError{Path: p.dir.Print(paths[i])})
			}
			out[at[i]] = info
		}
	}
	return out, nil
}
