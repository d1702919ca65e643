package execute

import (
	"context"
	"os"
	"path/filepath"
	"slices"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// real is where an object of the store is.
func (b *build) real(p storepath.Path) string { return filepath.Join(b.s.RealDir(), p.Base()) }

// realScratch is where the builder puts an output, seen from outside.
func (b *build) realScratch(p storepath.Path) string {
	if b.apart {
		return filepath.Join(b.chroot.root, b.dir.Print(p))
	}
	return b.real(p)
}

func (b *build) systemFeature(name string) bool { return slices.Contains(b.o.SystemFeatures, name) }

// cleanup gives everything back that the build has, and removes what it left. The
// builder is dead. It may be called again.
func (b *build) cleanup(ctx context.Context) {
	keep := b.o.KeepFailed && !b.registered && b.ran && !b.job.Drv.IsBuiltin()
	if b.term != nil {
		b.term.close()
		b.term = nil
	}
	if b.scratch != nil && !b.registered {
		b.dropOutputs(ctx, keep)
	}
	if b.chroot != nil {
		b.chroot.remove(ctx)
		b.chroot = nil
	}
	if b.tmp != nil {
		if keep {
			b.tmp.keep(ctx)
		} else {
			b.tmp.remove(ctx)
		}
		b.tmp = nil
	}
	if b.cgroup != nil {
		if err := b.cgroup.Close(); err != nil {
			activity.Warnf(ctx, "removing the control group of the build: %v", err)
		}
		b.cgroup = nil
	}
	if b.user != nil {
		if err := b.user.Release(); err != nil {
			activity.Warnf(ctx, "giving back a build user: %v", err)
		}
		b.user = nil
	}
	if b.act != nil {
		b.act.Stop()
		b.act = nil
	}
}

// dropOutputs removes what a failed build made of its outputs. To be looked at, they
// are kept where they would be, without being valid: the next build of them or
// a garbage collection takes them away.
func (b *build) dropOutputs(ctx context.Context, keep bool) {
	for name, p := range b.scratch.paths {
		out := b.job.Outputs[name]
		switch {
		case b.apart && keep && b.job.Mode == store.BuildNormal && p == out.Path && !out.Valid:
			_ = os.Rename(b.realScratch(p), b.real(p)) // it need not be there, or something else may be
		case !b.apart && !keep:
			if _, err := nar.RemoveTree(ctx, b.real(p)); err != nil {
				activity.Warnf(ctx, "removing what a failed build left: %v", err)
			}
		}
	}
	b.scratch = nil
}
