package execute

import (
	"context"
	"sync"

	"github.com/strata-nix/strata/builder/builtin"
	"github.com/strata-nix/strata/builder/sandbox"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/storepath"
)

// runBuiltin runs a builder that is a part of this program. Its outputs are made
// apart from the store, as in a sandbox, and its error is the last thing that it
// says. Only the time that it takes has a limit: about silence of the other side
// downloads have settings of their own.
func (b *build) runBuiltin(ctx context.Context, w *watch) (exited, error) {
	w.maxSilence = 0
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { w.limits(done) })
	defer wg.Wait()
	defer close(done)
	outputs := make(map[string]string, len(b.scratch.paths))
	for name, p := range b.scratch.paths {
		outputs[name] = b.realScratch(p)
	}
	err := builtin.Run(ctx, &builtin.Build{
		Drv: b.rewritten(), Outputs: outputs, Dir: b.dir, RealDir: b.s.RealDir(),
		Visible: b.visible(), Outside: b.outside(),
		Transfer: b.o.Transfer, HashedMirrors: b.o.HashedMirrors, Schemes: b.o.Schemes,
	})
	if ctx.Err() != nil {
		return exited{}, context.Cause(ctx)
	}
	if err != nil {
		b.write([]byte("error: " + err.Error() + "\n"))
		return failed, nil
	}
	return exited{}, nil
}

// failed is how a program ends that has said what is wrong.
var failed = exited{sandbox.Exit{Status: 1 << 8}}

// rewritten is the derivation with the paths that its outputs have during the
// build.
func (b *build) rewritten() *derivation.Basic {
	drv := *b.job.Drv
	drv.Env = make(map[string]string, len(b.job.Drv.Env))
	for name, value := range b.job.Drv.Env {
		drv.Env[name] = derivation.Rewrite(value, b.scratch.rewrites)
	}
	return &drv
}

// visible tells which objects a builtin builder sees; nil: all.
func (b *build) visible() func(storepath.Path) bool {
	if !b.boxed {
		return nil
	}
	inputs := storepath.Set{}
	for _, info := range b.job.Inputs {
		inputs.Add(info.Path)
	}
	return inputs.Has
}

// outside tells what a builtin builder sees of the rest of the machine: what another
// builder would in its place.
func (b *build) outside() builtin.Access {
	switch {
	case b.boxed:
		return builtin.Nothing
	case b.o.Users.Enabled():
		return builtin.Public
	}
	return builtin.Everything
}
