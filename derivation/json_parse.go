package derivation

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/strata-nix/strata/internal/canonjson"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

// What is read is all pointers, to tell what is missing.
type derivationJSON struct {
	Args            *[]string              `json:"args"`
	Builder         *string                `json:"builder"`
	Env             *map[string]string     `json:"env"`
	Inputs          *inputsJSON            `json:"inputs"`
	Name            *string                `json:"name"`
	Outputs         *map[string]outputJSON `json:"outputs"`
	StructuredAttrs json.RawMessage        `json:"structuredAttrs"`
	System          *string                `json:"system"`
	Version         *uint64                `json:"version"`
}

type inputsJSON struct {
	Drvs *map[string]nodeJSON `json:"drvs"`
	Srcs *[]string            `json:"srcs"`
}

type nodeJSON struct {
	Dynamic *map[string]nodeJSON `json:"dynamicOutputs"`
	Outputs *[]string            `json:"outputs"`
}

type outputJSON struct {
	Hash     *string `json:"hash"`
	HashAlgo *string `json:"hashAlgo"`
	Impure   *bool   `json:"impure"`
	Method   *string `json:"method"`
	Path     *string `json:"path"`
}

// UnmarshalJSON is the inverse of MarshalJSON. Members that it does not know are
// passed over, those of outputs excepted.
func (d *Derivation) UnmarshalJSON(data []byte) error {
	var j derivationJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return fmt.Errorf("%w: JSON of a derivation: %w", ErrFormat, err)
	}
	if j.Version == nil || *j.Version != JSONVersion {
		return fmt.Errorf("%w: unsupported JSON format version, only version %d is supported", ErrFormat, JSONVersion)
	}
	if err := j.complete(); err != nil {
		return err
	}
	out := Derivation{Basic: Basic{Name: *j.Name, Platform: *j.System, Builder: *j.Builder, Args: *j.Args, Env: *j.Env}}
	if err := out.inputsFromJSON(j.Inputs); err != nil {
		return err
	}
	out.Outputs = make(map[string]Output, len(*j.Outputs))
	for name, oj := range *j.Outputs {
		o, err := oj.output()
		if err != nil {
			return fmt.Errorf("%w: derivation '%s': output '%s' in JSON: %w", ErrFormat, clip(out.Name), clip(name), err)
		}
		out.Outputs[name] = o
	}
	if _, ok := out.Env[jsonVar]; ok {
		return fmt.Errorf("%w: derivation '%s': Cannot have an environment variable named '%s'", ErrFormat, clip(out.Name), jsonVar)
	}
	if j.StructuredAttrs != nil {
		attrs, err := canonjson.Canonicalise(j.StructuredAttrs)
		if err != nil {
			return fmt.Errorf("%w: derivation '%s': structuredAttrs: %w", ErrFormat, clip(out.Name), err)
		}
		out.Env[jsonVar] = string(attrs)
	}
	if err := out.validate(); err != nil {
		return err
	}
	*d = out
	return nil
}

// complete names the first member that is missing.
func (j *derivationJSON) complete() error {
	for _, m := range []struct {
		name string
		ok   bool
	}{
		{"args", j.Args != nil}, {"builder", j.Builder != nil}, {"env", j.Env != nil}, {"inputs", j.Inputs != nil},
		{"name", j.Name != nil}, {"outputs", j.Outputs != nil}, {"system", j.System != nil},
		{"inputs.drvs", j.Inputs != nil && j.Inputs.Drvs != nil}, {"inputs.srcs", j.Inputs != nil && j.Inputs.Srcs != nil},
	} {
		if !m.ok {
			return fmt.Errorf("%w: JSON of a derivation has no '%s'", ErrFormat, m.name)
		}
	}
	return nil
}

func (d *Derivation) inputsFromJSON(j *inputsJSON) error {
	for _, base := range *j.Srcs {
		p, err := storepath.ParseBase(base)
		if err != nil {
			return fmt.Errorf("%w: derivation '%s': inputs.srcs: %w", ErrFormat, clip(d.Name), err)
		}
		d.InputSrcs = append(d.InputSrcs, p)
	}
	d.InputSrcs = storepath.SortUnique(d.InputSrcs)
	d.InputDrvs = make(map[storepath.Path]InputNode, len(*j.Drvs))
	for base, nj := range *j.Drvs {
		p, err := storepath.ParseBase(base)
		if err != nil {
			return fmt.Errorf("%w: derivation '%s': inputs.drvs: %w", ErrFormat, clip(d.Name), err)
		}
		if d.InputDrvs[p], err = nj.node(0); err != nil {
			return fmt.Errorf("%w: derivation '%s': inputs.drvs: '%s': %w", ErrFormat, clip(d.Name), base, err)
		}
	}
	return nil
}

func (j nodeJSON) node(depth int) (InputNode, error) {
	switch {
	case j.Outputs == nil || j.Dynamic == nil:
		return InputNode{}, fmt.Errorf("%w: 'outputs' and 'dynamicOutputs' must be there", ErrFormat)
	case depth > maxDynamic:
		return InputNode{}, fmt.Errorf("%w: dynamic derivations are nested more than %d deep", ErrFormat, maxDynamic)
	}
	n := InputNode{Outputs: sortNames(*j.Outputs)}
	for _, name := range slices.Concat(n.Outputs, sortedKeys(*j.Dynamic)) {
		if err := storepath.CheckName(name); err != nil {
			return InputNode{}, err
		}
	}
	for name, child := range *j.Dynamic {
		c, err := child.node(depth + 1)
		if err != nil {
			return InputNode{}, err
		}
		if n.Dynamic == nil {
			n.Dynamic = map[string]InputNode{}
		}
		n.Dynamic[name] = c
	}
	return n, nil
}

// UnmarshalJSON refuses members that it does not know: what they are says what
// kind of output it is.
func (j *outputJSON) UnmarshalJSON(data []byte) error {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(data, &m); err != nil {
		return err
	}
	if m == nil {
		return fmt.Errorf("%w: output is no object", ErrFormat)
	}
	for name, to := range map[string]any{"hash": &j.Hash, "hashAlgo": &j.HashAlgo, "impure": &j.Impure, "method": &j.Method, "path": &j.Path} {
		if raw, ok := m[name]; ok {
			if err := json.Unmarshal(raw, to); err != nil {
				return err
			}
			delete(m, name)
		}
	}
	for name := range m {
		return fmt.Errorf("%w: unknown member %.100q of an output", ErrFormat, name)
	}
	return nil
}

func (j outputJSON) output() (Output, error) {
	hash, algo, method, path := j.Hash != nil, j.HashAlgo != nil, j.Method != nil, j.Path != nil
	switch {
	case path && !hash && !algo && !method && j.Impure == nil:
		p, err := storepath.ParseBase(*j.Path)
		return Output{Kind: InputAddressed, Path: p}, err
	case hash && method && !algo && !path && j.Impure == nil:
		m, err := storepath.ParseMethod(*j.Method)
		if err != nil {
			return Output{}, err
		}
		h, err := nixhash.Parse(*j.Hash)
		return Output{Kind: Fixed, CA: storepath.ContentAddress{Method: m, Hash: h}}, err
	case algo && method && !hash && !path:
		m, err := storepath.ParseMethod(*j.Method)
		if err != nil {
			return Output{}, err
		}
		a, err := nixhash.ParseAlgorithm(*j.HashAlgo)
		kind := Floating
		if j.Impure != nil {
			kind = Impure
		}
		return Output{Kind: kind, Spec: storepath.Spec{Method: m, Algorithm: a}}, err
	case !hash && !algo && !method && !path && j.Impure == nil:
		return Output{Kind: Deferred}, nil
	}
	return Output{}, fmt.Errorf("%w: invalid JSON for derivation output", ErrFormat)
}
