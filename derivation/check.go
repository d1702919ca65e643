package derivation

import (
	"context"
	"fmt"

	"github.com/strata-nix/strata/storepath"
)

// Check tells whether the paths of d's outputs are those that follow from it,
// and whether the variables named like the outputs have them. drvPath is where d
// is, or is to be. Nothing of a derivation that fails may be built or believed:
// its outputs may belong to another. The warnings are about what Nix lets pass
// for now.
func (h *Hasher) Check(ctx context.Context, drvPath storepath.Path, d *Derivation) (warnings []string, err error) {
	name, err := NameFromPath(drvPath)
	if err != nil {
		return nil, err
	}
	full := h.dir.Print(drvPath)
	if name != d.Name {
		return nil, fmt.Errorf("%w: derivation '%s' has name '%s' which does not match its path", ErrInvalid, full, d.Name)
	}
	should, err := h.outputPaths(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("while checking derivation '%s': %w", full, err)
	}
	for _, out := range d.OutputNames() {
		warning, fault := checkOutput(h.dir, full, d, out, should[out])
		if fault != nil {
			return warnings, fault
		}
		if warning != "" {
			warnings = append(warnings, warning)
		}
	}
	return warnings, nil
}

// checkOutput compares one output with its path, zero if that cannot be known.
func checkOutput(dir storepath.Dir, full string, d *Derivation, out string, should storepath.Path) (warning string, fault error) {
	e := IncorrectOutputError{Derivation: full, Output: out}
	if !should.IsZero() {
		e.Want = dir.Print(should)
	}
	o := d.Outputs[out]
	if o.Kind == InputAddressed && o.Path != should {
		e.Got = dir.Print(o.Path)
		return "", &e
	}
	if should.IsZero() {
		return "", nil
	}
	if value, ok := d.Env[out]; value != e.Want {
		e.Env, e.Missing, e.Got = true, !ok, value
		if o.Kind == InputAddressed {
			return e.Error(), nil // older releases of Nix refuse it, newer ones do not look
		}
		return "", &e
	}
	if o.Kind == Deferred {
		return fmt.Sprintf("derivation '%s' has incorrect deferred output, should be '%s'", full, e.Want), nil
	}
	return "", nil
}

// outputPaths are the paths that the outputs should have: zero where that
// cannot be known before a build.
func (h *Hasher) outputPaths(ctx context.Context, d *Derivation) (map[string]storepath.Path, error) {
	kind, err := d.Kind()
	if err != nil {
		return nil, err
	}
	if kind != InputAddressed && kind != Deferred {
		return d.OutputPaths(h.dir)
	}
	m, err := h.Modulo(ctx, d)
	if err != nil {
		return nil, err
	}
	paths := make(map[string]storepath.Path, len(d.Outputs))
	for out := range d.Outputs {
		if m.Deferred {
			paths[out] = storepath.Path{}
		} else if paths[out], err = h.dir.MakeOutput(out, m.Hashes[out], d.Name); err != nil {
			return nil, err
		}
	}
	return paths, nil
}

// FillIn gives deferred outputs the paths that they have, as far as those can
// be known before a build, and sets the variables named like outputs that are
// missing or empty. After that, d may still fail Check.
func (h *Hasher) FillIn(ctx context.Context, d *Derivation) error {
	if d.Env == nil {
		d.Env = map[string]string{}
	}
	for out, o := range d.Outputs {
		// That there is a variable goes into the hash, its value does not.
		if _, ok := d.Env[out]; !ok && (o.Kind == Deferred || o.Kind == InputAddressed) {
			d.Env[out] = ""
		}
	}
	should, err := h.outputPaths(ctx, d)
	if err != nil {
		return err
	}
	for out, o := range d.Outputs {
		p := should[out]
		if p.IsZero() {
			continue
		}
		if o.Kind == Deferred {
			d.Outputs[out] = Output{Kind: InputAddressed, Path: p}
		}
		if d.Env[out] == "" {
			d.Env[out] = h.dir.Print(p)
		}
	}
	return nil
}
