package output

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/trust"
)

// registration is one call of Register.
type registration struct {
	s    store.Store
	dir  storepath.Dir
	real string // the store directory on disk
	inst Installer
	reg  store.Registrar
	job  *Job
	o    Options
	kind derivation.Kind

	names  []string          // of all outputs, sorted
	made   map[string]*made  // outputs that the builder made and that are wanted
	parts  partIndex         // what outputs could refer to
	own    partIndex         // their scratch paths alone
	byPart map[string]string // names of outputs by hash part of the scratch path
	moved  rewrites          // scratch paths that are not the final ones, as far as settled
	unlock []func()          // of paths that only the build told

	tmp       string // a private directory, "" before it is needed
	removeTmp func()
	tmpCount  int
}

// made is an output on the way from the builder to the store.
type made struct {
	name string
	Output
	spec derivation.Output
	tree tree   // where it is now, and what is to be rewritten in it
	mode uint32 // as the builder left it
	scan scan
	info *store.PathInfo // NarHash is zero as long as tree has rewrites
}

func newRegistration(s store.Store, job *Job, o Options) (*registration, error) {
	r := &registration{s: s, dir: s.Dir(), job: job, o: o, names: job.Drv.OutputNames(), made: map[string]*made{}, moved: rewrites{}}
	d, err := store.Need[store.Directory](s, "register outputs")
	if err != nil {
		return nil, err
	}
	if r.reg, err = store.Need[store.Registrar](s, "register outputs"); err != nil {
		return nil, err
	}
	if r.inst, err = store.Need[Installer](s, "register outputs"); err != nil {
		return nil, err
	}
	r.real = d.RealDir()
	if r.kind, err = job.Drv.Kind(); err != nil {
		return nil, err
	}
	if r.kind == derivation.Deferred {
		return nil, fmt.Errorf("derivation '%s' is not resolved", r.drv())
	}
	r.index()
	for _, name := range r.names {
		out, ok := job.Outputs[name]
		if !ok {
			return nil, fmt.Errorf("output '%s' of '%s' has no scratch path", name, r.drv())
		}
		if !out.skip(job.Mode) {
			r.made[name] = &made{name: name, Output: out, spec: job.Drv.Outputs[name], tree: tree{path: out.Real}}
		}
	}
	return r, nil
}

// index makes the tables of what can be referred to.
func (r *registration) index() {
	r.parts, r.own, r.byPart = make(partIndex, len(r.job.Inputs)), partIndex{}, map[string]string{}
	for _, info := range r.job.Inputs {
		r.parts.add(info.Path)
	}
	for _, p := range r.job.Added {
		r.parts.add(p)
	}
	for name, out := range r.job.Outputs {
		r.parts.add(out.Scratch)
		r.own.add(out.Scratch)
		r.byPart[out.Scratch.HashPart()] = name
	}
}

// run is the whole of it.
func (r *registration) run(ctx context.Context) (*Result, error) {
	if err := r.accept(ctx); err != nil {
		return nil, err
	}
	if err := r.examine(ctx); err != nil {
		return nil, err
	}
	order, err := r.order()
	if err != nil {
		return nil, err
	}
	for _, name := range order {
		if err := r.settle(ctx, name); err != nil {
			return nil, err
		}
	}
	if r.job.Mode == store.BuildCheck {
		return r.check(ctx, order)
	}
	if err := r.finish(ctx, order); err != nil {
		return nil, err
	}
	result, err := r.result(ctx)
	if err == nil {
		r.removeScratch(ctx)
	}
	return result, err
}

// finish places the outputs if the checks let it. What is addressed by its contents is
// right whatever becomes of this build, and is placed before.
func (r *registration) finish(ctx context.Context, order []string) error {
	if r.kind.IsContentAddressed() {
		if err := r.place(ctx, order); err != nil {
			return err
		}
		return r.checks(ctx)
	}
	if err := r.checks(ctx); err != nil {
		return err
	}
	return r.place(ctx, order)
}

// sign adds the signatures of all keys.
func (r *registration) sign(info *store.PathInfo) error {
	if len(r.o.Keys) == 0 {
		return nil // its size need not be known
	}
	return trust.Sign(info, r.dir, r.o.Keys...)
}

// close gives back what run took.
func (r *registration) close() {
	for _, unlock := range r.unlock {
		unlock()
	}
	if r.removeTmp != nil {
		r.removeTmp()
	}
}

// tempPath is a fresh place beside the store objects.
func (r *registration) tempPath(ctx context.Context) (string, error) {
	if r.removeTmp == nil {
		var err error
		if r.tmp, r.removeTmp, err = r.inst.TempDir(ctx); err != nil {
			return "", err
		}
	}
	r.tmpCount++
	return filepath.Join(r.tmp, strconv.Itoa(r.tmpCount)), nil
}

// removeScratch deletes what is left of the scratch outputs.
func (r *registration) removeScratch(ctx context.Context) {
	for name, out := range r.job.Outputs {
		final := out.Path
		if m := r.made[name]; m != nil {
			final = m.info.Path
		}
		if out.Real != "" && out.Real != r.realPath(final) {
			_, _ = nar.RemoveTree(context.WithoutCancel(ctx), out.Real) // garbage
		}
	}
}

// drv is the derivation, for messages.
func (r *registration) drv() string { return r.dir.Print(r.job.DrvPath) }

// realPath is where an object is on disk.
func (r *registration) realPath(p storepath.Path) string { return filepath.Join(r.real, p.Base()) }
