package execute

import (
	"context"

	"github.com/strata-nix/strata/builder/output"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// register makes valid what the builder left.
func (b *build) register(ctx context.Context) error {
	outs := make(map[string]output.Output, len(b.job.Outputs))
	for name, out := range b.job.Outputs {
		p := b.scratch.paths[name]
		outs[name] = output.Output{Path: out.Path, Valid: out.Valid, Intact: out.Intact, Scratch: p, Real: b.realScratch(p)}
	}
	job := &output.Job{
		DrvPath: b.job.DrvPath, Drv: b.job.Drv, Attrs: b.attrs, Mode: b.job.Mode,
		Inputs: b.job.Inputs, Hashes: b.job.Hashes, Outputs: outs, Roots: b.job.Roots,
	}
	if b.tmp != nil {
		job.BuildDir = b.tmp.path
	}
	if b.nix != nil {
		job.Added = b.nix.store.Added()
	}
	o := output.Options{
		IgnoredACLs: b.o.IgnoredACLs, Keys: b.o.SecretKeys, Realisations: b.feature("ca-derivations"),
		KeepFailed: b.o.KeepFailed, DiffHook: b.o.DiffHook,
	}
	if b.user != nil {
		o.Builder = &output.Owner{UID: b.user.UID, GID: b.user.GID}
		o.Owners = &nar.UIDRange{First: b.user.UID, Last: b.user.UID + b.user.Count - 1}
	}
	res, err := output.Register(ctx, b.s, job, o)
	if err != nil {
		return err
	}
	b.registered = true
	b.result.Status, b.result.Outputs = store.Built, res.Realisations
	return nil
}

// outputPaths are those that the post-build hook is told.
func (b *build) outputPaths() []storepath.Path {
	var paths []storepath.Path
	for _, real := range b.result.Outputs {
		paths = append(paths, real.OutPath)
	}
	if b.job.Mode == store.BuildCheck {
		for _, out := range b.job.Outputs {
			paths = append(paths, out.Path)
		}
	}
	return paths
}
