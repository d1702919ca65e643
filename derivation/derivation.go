package derivation

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

// jsonVar is the environment variable that holds structured attributes.
const jsonVar = "__json"

// Basic is a derivation without the derivations that it depends on: those are
// built, and their outputs are among InputSrcs. It is what a remote builder gets.
type Basic struct {
	// Name is that of the store path, without ".drv".
	Name string
	// Outputs by name; at least one.
	Outputs map[string]Output
	// InputSrcs are store objects that it uses as they are, sorted, no doubles.
	InputSrcs []storepath.Path
	// Platform is the system that it builds on, "x86_64-linux".
	Platform string
	// Builder is an absolute path, or "builtin:…".
	Builder string
	Args    []string
	// Env is the environment of the build. The variable __json, if it is there,
	// holds the structured attributes.
	Env map[string]string
}

// Derivation is a store derivation.
type Derivation struct {
	Basic
	// InputDrvs are the derivations whose outputs it uses.
	InputDrvs map[storepath.Path]InputNode
}

// InputNode says which outputs of a derivation are used.
type InputNode struct {
	// Outputs wanted, sorted, no doubles.
	Outputs []string
	// Dynamic says, for outputs that are derivations themselves, which of their
	// outputs are used. Empty unless derivations are dynamic.
	Dynamic map[string]InputNode
}

// NameFromPath gives the name of the derivation at a store path.
func NameFromPath(p storepath.Path) (string, error) {
	name, ok := strings.CutSuffix(p.Name(), storepath.DerivationSuffix)
	if !ok {
		return "", fmt.Errorf("%w: store path '%s' is not a valid derivation path", ErrInvalid, p.Base())
	}
	if name == "" {
		return "", fmt.Errorf("%w: store path '%s' names a derivation without a name", ErrInvalid, p.Base())
	}
	return name, nil
}

// IsBuiltin tells that the builder is a part of Nix.
func (b *Basic) IsBuiltin() bool { return strings.HasPrefix(b.Builder, "builtin:") }

// OutputNames are the names of the outputs, sorted.
func (b *Basic) OutputNames() []string { return slices.Sorted(maps.Keys(b.Outputs)) }

// References are the store paths that the file of the derivation refers to:
// sources and derivations, not the outputs. Sorted, no doubles.
func (d *Derivation) References() []storepath.Path {
	refs := slices.Clone(d.InputSrcs)
	for p := range d.InputDrvs {
		refs = append(refs, p)
	}
	return storepath.SortUnique(refs)
}

// StorePath is where the derivation lies once it is added to a store.
func (d *Derivation) StorePath(dir storepath.Dir) (storepath.Path, error) {
	text, err := d.ATerm(dir)
	if err != nil {
		return storepath.Path{}, err
	}
	ca := storepath.ContentAddress{Method: storepath.Text, Hash: nixhash.Of(nixhash.SHA256, string(text))}
	return dir.Make(d.Name+storepath.DerivationSuffix, ca, storepath.References{Others: d.References()})
}

// HasDynamicInputs tells that it depends on an output of a derivation that is
// itself built.
func (d *Derivation) HasDynamicInputs() bool {
	for _, n := range d.InputDrvs {
		if len(n.Dynamic) > 0 {
			return true
		}
	}
	return false
}

// Features are the experimental features of Nix without which it does not take
// the derivation, sorted.
func (d *Derivation) Features() []string {
	need := map[string]bool{}
	for _, o := range d.Outputs {
		o.features(need)
	}
	if d.HasDynamicInputs() {
		need["dynamic-derivations"] = true
	}
	return slices.Sorted(maps.Keys(need))
}

// validate refuses what could be read but not be written again so that another
// reader would see the same.
func (b *Basic) validate() error {
	if err := storepath.CheckName(b.Name); err != nil {
		return fmt.Errorf("%w: name of the derivation: %w", ErrInvalid, err)
	}
	for name := range b.Outputs {
		if err := storepath.CheckName(name); err != nil {
			return fmt.Errorf("%w: output of derivation '%s': %w", ErrInvalid, b.Name, err)
		}
	}
	// Nix writes the platform without escapes.
	if strings.ContainsAny(b.Platform, "\"\\\n\r\t") {
		return fmt.Errorf("%w: derivation '%s' has the impossible platform %.100q", ErrInvalid, b.Name, b.Platform)
	}
	if text, ok := b.Env[jsonVar]; ok {
		if err := checkObject(text); err != nil {
			return fmt.Errorf("%w: derivation '%s': cannot process %s attribute: %w", ErrInvalid, b.Name, jsonVar, err)
		}
	}
	return nil
}

// checkObject refuses what is not one JSON object.
func checkObject(text string) error {
	if !strings.HasPrefix(strings.TrimLeft(text, " \t\r\n"), "{") {
		return fmt.Errorf("%w: not a JSON object", ErrFormat)
	}
	var raw json.RawMessage
	return json.Unmarshal([]byte(text), &raw)
}
