package remote

import (
	"context"
	"fmt"
	"io"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// objects is a store.SizedSource of objects of a store, references first.
type objects struct {
	ctx     context.Context //nolint:containedctx // lives as long as one call of AddMultiple
	from    store.Store
	infos   []*store.PathInfo
	current io.ReadCloser
}

// Len is how many are still to come.
func (o *objects) Len() int { return len(o.infos) }

// Next gives the next object.
func (o *objects) Next() (*store.PathInfo, io.Reader, error) {
	o.close()
	if len(o.infos) == 0 {
		return nil, nil, io.EOF
	}
	info := o.infos[0].Clone()
	o.infos = o.infos[1:]
	info.Ultimate = false // it was not built where it goes
	r, err := store.OpenNar(o.ctx, o.from, info.Path)
	if err != nil {
		return nil, nil, err
	}
	o.current = r
	return info, r, nil
}

func (o *objects) close() {
	if o.current != nil {
		_ = o.current.Close()
		o.current = nil
	}
}

// send copies objects in an order in which their references are there first.
func send(ctx context.Context, from, to store.Store, infos []*store.PathInfo, o store.AddOptions) error {
	if len(infos) == 0 {
		return nil
	}
	sorted, err := store.SortByReferences(from.Dir(), infos)
	if err != nil {
		return err
	}
	src := &objects{ctx: ctx, from: from, infos: sorted}
	defer src.close()
	return store.AddMultiple(ctx, to, src, o)
}

// preparer is a store that can be asked in one go what of some paths it has, to
// keep that, and to get the rest. That of the older protocol is one.
type preparer interface {
	Prepare(ctx context.Context, paths []storepath.Path, substitute bool) ([]storepath.Path, error)
}

// provide makes all of infos valid on a machine, and keeps them there as long as
// its store is open. With substitute it may get them from elsewhere.
func (p *machinePlace) provide(ctx context.Context, infos []*store.PathInfo) error {
	paths := make([]storepath.Path, len(infos))
	for i, info := range infos {
		paths[i] = info.Path
	}
	valid, roots, err := p.prepare(ctx, paths)
	if err != nil {
		return err
	}
	there := storepath.NewSet(valid...)
	var missing []*store.PathInfo
	for _, info := range infos {
		if !there.Has(info.Path) {
			missing = append(missing, info)
		}
	}
	return send(ctx, p.f.o.Local, p.st, missing, store.AddOptions{NoCheckSigs: true, Roots: roots})
}

// prepare gives those of paths that are there. Roots are nil if there is no need.
func (p *machinePlace) prepare(ctx context.Context, paths []storepath.Path) ([]storepath.Path, store.TempRoots, error) {
	substitute := p.f.o.UseSubstitutes
	if legacy, ok := store.As[preparer](p.st); ok {
		valid, err := legacy.Prepare(ctx, paths, substitute)
		return valid, nil, err
	}
	if t, ok := store.As[store.TempRooter](p.st); ok && p.roots == nil {
		p.roots = t.NewTempRoots()
		if err := p.roots.Add(ctx, paths); err != nil {
			return nil, nil, err
		}
	}
	if b, ok := store.As[store.Builder](p.st); ok && substitute {
		wanted := make([]derivation.DerivedPath, len(paths))
		for i, path := range paths {
			wanted[i].Path = path
		}
		// What it cannot get is copied.
		if _, err := b.BuildPaths(ctx, wanted, store.BuildNormal); err != nil {
			return nil, nil, err
		}
	}
	valid, err := p.st.ValidPaths(ctx, paths)
	return valid, p.roots, err
}

// fetch brings outputs, which the caller has locked.
func (p *machinePlace) fetch(ctx context.Context, paths []storepath.Path, roots store.TempRoots) error {
	here, err := p.f.o.Local.ValidPaths(ctx, paths)
	if err != nil {
		return err
	}
	paths = storepath.NewSet(here...).Missing(paths)
	if len(paths) == 0 {
		return nil
	}
	infos, err := p.st.PathInfos(ctx, paths)
	if err != nil {
		return err
	}
	for i, info := range infos {
		if info == nil {
			return fmt.Errorf("output '%s' is not valid on '%s'", p.f.o.Local.Dir().Print(paths[i]), p.Name())
		}
	}
	ctx = store.WithLocked(ctx, storepath.NewSet(paths...))
	return send(ctx, p.st, p.f.o.Local, infos, store.AddOptions{NoCheckSigs: true, Roots: roots})
}
