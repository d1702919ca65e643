package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/builder/remote"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// execute builds a derivation, once its outputs are locked, unless another
// process was faster. It may go on when the request is over, if another one waits
// for it too.
func (r *request) execute(ctx context.Context, b *building, slot *slot, t *turn, s *shared, place remote.Place) (*store.BuildResult, error) {
	n := b.node
	if r.Writable != nil {
		if err := r.Writable(); err != nil {
			return nil, fmt.Errorf("building '%s': %w", r.Store.Dir().Print(n.path), err)
		}
	}
	locks, err := lockOutputs(ctx, r.lockFiles(n), slot, t)
	if err != nil {
		return nil, fmt.Errorf("locking the outputs of '%s': %w", r.Store.Dir().Print(n.path), err)
	}
	defer locks.release()
	now, err := r.survey(ctx, n)
	if err != nil {
		return nil, err
	}
	if now.complete && n.mode != store.BuildCheck {
		return &store.BuildResult{Status: store.AlreadyValid, Outputs: now.reals}, nil
	}
	if err := r.clear(ctx, now.outputs); err != nil {
		return nil, err
	}
	if n.write {
		if err := r.writeDerivation(ctx, n, s); err != nil {
			return nil, err
		}
	}
	inputs, err := r.infos.closure(ctx, r.Store, b.basic.InputSrcs)
	if err != nil {
		return nil, err
	}
	t.wait(ctx)
	var executor Executor = place
	if place == nil {
		executor = r.b.executor(r.Store, r.Execute)
	}
	result, err := executor.Build(ctx, &execute.Job{
		DrvPath: n.path, Drv: b.basic, Mode: n.mode, Inputs: inputs,
		Hashes: n.hashes, Outputs: now.outputs, Roots: s.roots(r.Store),
	})
	if err != nil || !result.Status.OK() {
		return result, err
	}
	// What was there all the time is a part of what there is now.
	all := maps.Clone(now.reals)
	maps.Copy(all, result.Outputs)
	result.Outputs = all
	for _, real := range all {
		r.good.note(real.OutPath, true)
	}
	return result, nil
}

// lockFiles are those of Nix: of each output, or, where its path is not known, of
// the derivation and the name of the output.
func (r *request) lockFiles(n *node) []string {
	var files []string
	for name, p := range n.known {
		file := p.Base()
		if p.IsZero() {
			file = n.path.Base() + "." + name
		}
		files = append(files, filepath.Join(r.Store.RealDir(), file+".lock"))
	}
	slices.Sort(files)
	return files
}

// survey is what is there of all outputs of a derivation.
type survey struct {
	outputs  map[string]execute.Output
	reals    map[string]*store.Realisation // of those that are valid
	complete bool                          // all are
}

// survey asks for the outputs of a derivation that is locked.
func (r *request) survey(ctx context.Context, n *node) (*survey, error) {
	found := &survey{outputs: map[string]execute.Output{}, reals: map[string]*store.Realisation{}}
	os := make([]*output, 0, len(n.drv.Outputs))
	for _, name := range n.drv.OutputNames() {
		os = append(os, &output{node: n, name: name, path: n.known[name]})
	}
	if n.kind == derivation.Impure {
		for _, o := range os {
			found.outputs[o.name] = execute.Output{}
		}
		return found, nil
	}
	if err := r.findPaths(ctx, os); err != nil {
		return nil, err
	}
	valid, err := r.validOutputs(ctx, os)
	if err != nil {
		return nil, err
	}
	found.complete = true
	for _, o := range os {
		out := execute.Output{Path: o.path, Valid: valid.Has(o.path)}
		if out.Valid && n.mode == store.BuildRepair {
			if out.Intact, err = r.intact(ctx, o.path); err != nil {
				return nil, err
			}
		}
		found.outputs[o.name] = out
		if out.Valid {
			found.reals[o.name] = o.realisation()
		}
		found.complete = found.complete && out.Valid && (n.mode != store.BuildRepair || out.Intact)
	}
	return found, nil
}

// clear deletes what lies at the paths of outputs that are not valid: what a
// process left that was killed.
func (r *request) clear(ctx context.Context, outputs map[string]execute.Output) error {
	for _, o := range outputs {
		if o.Valid || o.Path.IsZero() {
			continue
		}
		if _, err := nar.RemoveTree(ctx, filepath.Join(r.Store.RealDir(), o.Path.Base())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing invalid path '%s': %w", r.Store.Dir().Print(o.Path), err)
		}
	}
	return nil
}

// writeDerivation keeps a record of what is really built.
func (r *request) writeDerivation(ctx context.Context, n *node, s *shared) error {
	text, err := n.drv.ATerm(r.Store.Dir())
	if err != nil {
		return err
	}
	_, err = r.Store.AddDump(ctx, store.Dump{
		Name:       n.drv.Name + storepath.DerivationSuffix,
		Spec:       storepath.Spec{Method: storepath.Text, Algorithm: nixhash.SHA256},
		References: n.drv.References(),
		Contents:   strings.NewReader(string(text)),
	}, store.AddOptions{Roots: s.roots(r.Store)})
	if err != nil {
		return fmt.Errorf("writing the resolved derivation '%s': %w", r.Store.Dir().Print(n.path), err)
	}
	return nil
}
