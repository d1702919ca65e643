package execute

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/strata-nix/strata/builder/environment"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// prepare makes all that the builder finds.
func (b *build) prepare(ctx context.Context) (err error) {
	if b.scratch, err = newScratch(b.dir, b.job, b.apart); err != nil {
		return err
	}
	if err := b.takeRoots(ctx); err != nil {
		return err
	}
	if err := b.clearPlaces(ctx); err != nil {
		return err
	}
	if !b.job.Drv.IsBuiltin() {
		if err := checkCommand(b.job.Drv); err != nil {
			return err
		}
		parent := b.o.BuildDir
		if parent == "" {
			parent = filepath.Join(b.s.StateDir(), "builds")
		}
		if b.tmp, err = newBuildDir(ctx, parent, b.boxed, b.own); err != nil {
			return err
		}
		if err := b.makeEnvironment(ctx); err != nil {
			return err
		}
	}
	if b.apart {
		b.chroot, err = newChroot(ctx, b)
	}
	return err
}

// checkCommand refuses what no process can be given.
func checkCommand(drv *derivation.Basic) error {
	for _, s := range append([]string{drv.Builder}, drv.Args...) {
		if strings.IndexByte(s, 0) >= 0 {
			return failf(store.InputRejected, "builder or argument %.100q has a NUL byte in it", s)
		}
	}
	return nil
}

// takeRoots keeps garbage collections from what is not valid yet: by its hash part
// the derivation keeps its .chroot, and scratch paths may lie in the store.
func (b *build) takeRoots(ctx context.Context) error {
	if b.job.Roots == nil {
		return nil
	}
	paths := []storepath.Path{b.job.DrvPath}
	if !b.apart {
		paths = slices.AppendSeq(paths, maps.Values(b.scratch.paths))
	}
	return b.job.Roots.Add(ctx, storepath.SortUnique(paths))
}

// clearPlaces removes what lies where a builder without sandbox is to put its
// outputs. In a directory of their own nothing is there.
func (b *build) clearPlaces(ctx context.Context) error {
	if b.apart {
		return nil
	}
	for _, p := range b.scratch.paths {
		if _, err := nar.RemoveTree(ctx, b.real(p)); err != nil {
			return fmt.Errorf("removing invalid path '%s': %w", b.dir.Print(p), err)
		}
	}
	return nil
}

// makeEnvironment makes the variables, and writes the files.
func (b *build) makeEnvironment(ctx context.Context) error {
	env, err := environment.Make(ctx, environment.Spec{
		Store: b.s, Drv: b.job.Drv, Options: b.attrs, Inputs: b.job.Inputs,
		BuildDir: b.seenBuildDir(), Cores: b.o.Cores, ImpureEnv: b.o.ImpureEnv,
	})
	var rejected *environment.RejectedError
	if errors.As(err, &rejected) {
		return failf(store.InputRejected, "%s", rejected.Why)
	}
	if err != nil {
		return err
	}
	if len(b.o.ImpureEnv) > 0 && !b.kind.IsSandboxed() {
		if err := b.require("configurable-impure-env"); err != nil {
			return err
		}
	}
	if b.attrs.RecursiveNix() {
		env.Vars["NIX_REMOTE"] = nixRemote(b.seenBuildDir())
	}
	env.Rewrite(b.scratch.rewrites)
	for name, contents := range env.Files {
		if err := b.tmp.write(name, contents, b.own); err != nil {
			return err
		}
	}
	b.env = env
	return nil
}

// seenBuildDir is the build directory as the builder knows it.
func (b *build) seenBuildDir() string {
	if !b.boxed {
		return b.tmp.path
	}
	if b.o.SandboxBuildDir != "" {
		return b.o.SandboxBuildDir
	}
	return "/build"
}
