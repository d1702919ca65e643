package builder

import (
	"context"
	"fmt"
	"strings"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/internal/canonjson"
	"github.com/strata-nix/strata/storepath"
)

// structuredAttrs is the variable of a derivation that holds structured
// attributes.
const structuredAttrs = "__json"

// resolve gives the derivation that is left when inputs have been built: their
// paths stand among its sources, and where their placeholders stood. find gives
// the path of an output of an input derivation.
func resolve(ctx context.Context, dir storepath.Dir, drv *derivation.Derivation,
	find func(drv derivation.DerivedPath, output string) (storepath.Path, bool),
) (*derivation.Basic, error) {
	basic := drv.Basic
	basic.InputSrcs = append([]storepath.Path(nil), drv.InputSrcs...)
	var rewrites []string // pairs, as strings.NewReplacer takes them
	var walk func(derivation.DerivedPath, derivation.InputNode, func(string) (derivation.Placeholder, error)) error
	walk = func(in derivation.DerivedPath, n derivation.InputNode, placeholder func(string) (derivation.Placeholder, error)) error {
		for _, name := range n.Outputs {
			p, ok := find(in, name)
			if !ok {
				return fmt.Errorf("output '%s' of '%s' is not known", name, in.Arg(dir))
			}
			h, err := placeholder(name)
			if err != nil {
				return err
			}
			basic.InputSrcs = append(basic.InputSrcs, p)
			rewrites = append(rewrites, h.String(), dir.Print(p))
		}
		for name, inner := range n.Dynamic {
			h, err := placeholder(name)
			if err != nil {
				return err
			}
			if err := walk(in.Of(name), inner, func(name string) (derivation.Placeholder, error) { return h.Output(name), nil }); err != nil {
				return err
			}
		}
		return nil
	}
	for p, n := range drv.InputDrvs {
		err := walk(derivation.DerivedPath{Path: p}, n, func(name string) (derivation.Placeholder, error) { return derivation.UnknownOutput(p, name) })
		if err != nil {
			return nil, err
		}
	}
	basic.InputSrcs = storepath.SortUnique(basic.InputSrcs)
	if err := rewrite(&basic, strings.NewReplacer(rewrites...)); err != nil {
		return nil, err
	}
	return &basic, fillIn(ctx, dir, &basic)
}

// rewrite replaces texts wherever they may stand. It makes copies of what it
// changes.
func rewrite(b *derivation.Basic, texts *strings.Replacer) (err error) {
	b.Builder = texts.Replace(b.Builder)
	args := make([]string, len(b.Args))
	for i, a := range b.Args {
		args[i] = texts.Replace(a)
	}
	b.Args = args
	env := make(map[string]string, len(b.Env))
	for name, value := range b.Env {
		changed := texts.Replace(value)
		if name == structuredAttrs && changed != value {
			// Where names of attributes have changed, so has their order.
			canonical, err := canonjson.Canonicalise([]byte(changed))
			if err != nil {
				return err
			}
			changed = string(canonical)
		}
		env[texts.Replace(name)] = changed
	}
	b.Env = env
	return nil
}

// fillIn gives deferred outputs their paths, which follow from the derivation now.
func fillIn(ctx context.Context, dir storepath.Dir, b *derivation.Basic) error {
	if kind, err := b.Kind(); err != nil || kind != derivation.Deferred {
		return err
	}
	hasher := derivation.NewHasher(dir, nil) // there are no derivations left to read
	m, err := hasher.Modulo(ctx, &derivation.Derivation{Basic: *b})
	if err != nil {
		return err
	}
	outputs := make(map[string]derivation.Output, len(b.Outputs))
	for name := range b.Outputs {
		p, err := dir.MakeOutput(name, m.Hashes[name], b.Name)
		if err != nil {
			return err
		}
		outputs[name] = derivation.Output{Kind: derivation.InputAddressed, Path: p}
		b.Env[name] = dir.Print(p)
	}
	b.Outputs = outputs
	return nil
}
