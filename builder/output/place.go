package output

import (
	"context"
	"crypto/sha256"
	"slices"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/trust"
)

// place puts the outputs where they belong and registers them.
func (r *registration) place(ctx context.Context, order []string) error {
	todo, err := r.claim(ctx, order)
	if err != nil {
		return err
	}
	paths := make([]storepath.Path, len(todo))
	for i, m := range todo {
		paths[i] = m.info.Path
	}
	valid, err := r.s.PathInfos(ctx, paths)
	if err != nil {
		return err
	}
	var infos []*store.PathInfo
	for i, m := range todo {
		if valid[i] == nil || r.replaces(m) {
			if err = r.install(ctx, m); err != nil {
				break
			}
		} else if !m.adopt(valid[i]) {
			continue
		}
		infos = append(infos, m.info)
	}
	if err == nil {
		err = r.register(ctx, infos)
	}
	if err != nil {
		for _, info := range infos {
			r.inst.Withdraw(ctx, info.Path)
		}
	}
	return err
}

// adopt takes the info of an object with the same contents that came from elsewhere,
// and tells whether there is anything new about it.
func (m *made) adopt(known *store.PathInfo) bool {
	ca := m.info.CA
	if m.info = known; known.Ultimate && known.CA == ca {
		return false
	}
	m.info = known.Clone()
	m.info.Ultimate, m.info.CA = true, ca
	return true
}

// register signs and registers all in one transaction.
func (r *registration) register(ctx context.Context, infos []*store.PathInfo) error {
	if len(infos) == 0 {
		return nil
	}
	for _, info := range infos {
		if err := r.sign(info); err != nil {
			return err
		}
	}
	return r.reg.Register(ctx, infos)
}

// claim locks the paths that only the build told, all in one order, so that nobody
// waits for us while we wait for him, and keeps them from being collected. It gives
// the outputs that are to be placed.
func (r *registration) claim(ctx context.Context, order []string) ([]*made, error) {
	var todo []*made
	for _, name := range order {
		if m := r.made[name]; m != nil {
			todo = append(todo, m)
		}
	}
	slices.SortFunc(todo, func(a, b *made) int { return storepath.Compare(a.info.Path, b.info.Path) })
	var told []storepath.Path
	for _, m := range todo {
		if m.info.Path != m.Path {
			told = append(told, m.info.Path)
		}
	}
	if r.job.Roots != nil && len(told) > 0 {
		if err := r.job.Roots.Add(ctx, told); err != nil {
			return nil, err
		}
	}
	for _, p := range told {
		// With an unexpected hash, the lock of the expected path is held: two such builds
		// could wait for each other. Whoever has the lock makes the object as well.
		wait := r.kind != derivation.Fixed
		unlock, err := r.inst.LockPath(ctx, p, wait)
		if err != nil {
			return nil, err
		}
		if unlock == nil {
			return nil, nil
		}
		r.unlock = append(r.unlock, unlock)
	}
	return todo, nil
}

// replaces tells that an output takes the place of a valid object: one that is to be
// repaired, or one that the builder has written over.
func (r *registration) replaces(m *made) bool {
	return r.job.Mode == store.BuildRepair && m.info.Path == m.Path || m.tree.path == r.realPath(m.info.Path)
}

// install brings an output to its final place.
func (r *registration) install(ctx context.Context, m *made) error {
	if len(m.tree.rewrites) > 0 {
		to, err := r.tempPath(ctx)
		if err != nil {
			return err
		}
		if err := r.materialise(ctx, m, to); err != nil {
			return err
		}
	}
	return r.inst.Install(ctx, m.tree.path, m.info.Path)
}

// materialise makes a tree with all that is to be rewritten in it rewritten.
func (r *registration) materialise(ctx context.Context, m *made, to string) error {
	h := sha256.New()
	if err := m.tree.copyTo(ctx, to, h); err != nil {
		return r.damage(err)
	}
	m.tree = tree{path: to}
	m.info.NarHash = nixhash.Sum(nixhash.SHA256, h)
	return nil
}

// result registers realisations and puts together what was done.
func (r *registration) result(ctx context.Context) (*Result, error) {
	out := &Result{Infos: map[string]*store.PathInfo{}, Realisations: map[string]*store.Realisation{}}
	var fresh []*store.Realisation
	for _, name := range r.names {
		rl := &store.Realisation{ID: store.DrvOutput{DrvHash: r.job.Hashes[name], Output: name}, OutPath: r.finalPath(name)}
		out.Realisations[name] = rl
		if m := r.made[name]; m != nil {
			out.Infos[name] = m.info
			fresh = append(fresh, rl)
		}
	}
	if !r.o.Realisations || r.kind == derivation.Impure || len(fresh) == 0 {
		return out, nil
	}
	reg, err := store.Need[store.RealisationRegistrar](r.s, "registerDrvOutput")
	if err != nil {
		return nil, err
	}
	for _, rl := range fresh {
		if len(r.o.Keys) > 0 {
			if err := trust.SignRealisation(rl, r.o.Keys...); err != nil {
				return nil, err
			}
		}
	}
	return out, reg.RegisterRealisations(ctx, fresh)
}
