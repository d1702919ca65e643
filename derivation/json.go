package derivation

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/strata-nix/strata/internal/canonjson"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

// JSONVersion is the version of the JSON form of derivations, and of the object
// that `nix derivation show` prints around several of them.
const JSONVersion = 4

// The fields are in the order in which Nix prints them.
type derivationJSON struct {
	Args            *[]string              `json:"args"`
	Builder         *string                `json:"builder"`
	Env             *map[string]string     `json:"env"`
	Inputs          *inputsJSON            `json:"inputs"`
	Name            *string                `json:"name"`
	Outputs         *map[string]outputJSON `json:"outputs"`
	StructuredAttrs json.RawMessage        `json:"structuredAttrs,omitempty"`
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
	Hash     *string `json:"hash,omitempty"`
	HashAlgo *string `json:"hashAlgo,omitempty"`
	Impure   *bool   `json:"impure,omitempty"`
	Method   *string `json:"method,omitempty"`
	Path     *string `json:"path,omitempty"`
}

// MarshalJSON writes what `nix derivation show` prints for one derivation, in
// version 4: store paths without their directory, structured attributes apart
// from the environment. Use an encoder that does not escape HTML to get the
// bytes that Nix prints.
func (d *Derivation) MarshalJSON() ([]byte, error) {
	if err := d.checkUTF8(); err != nil {
		return nil, err
	}
	b := append([]byte(`{"args":`), canonjson.AppendStrings(nil, d.Args)...)
	b = canonjson.AppendString(append(b, `,"builder":`...), d.Builder)
	b = append(b, `,"env":{`...)
	i := 0
	for _, k := range sortedKeys(d.Env) {
		if k == jsonVar {
			continue
		}
		b = append(canonjson.AppendString(comma(b, i), k), ':')
		b = canonjson.AppendString(b, d.Env[k])
		i++
	}
	b = append(b, `},"inputs":{"drvs":{`...)
	for i, p := range slices.SortedFunc(maps.Keys(d.InputDrvs), storepath.Compare) {
		b = append(canonjson.AppendString(comma(b, i), p.Base()), ':')
		b = appendNodeJSON(b, d.InputDrvs[p])
	}
	b = canonjson.AppendStrings(append(b, `},"srcs":`...), bases(d.InputSrcs))
	b = canonjson.AppendString(append(b, `},"name":`...), d.Name)
	b = append(b, `,"outputs":{`...)
	for i, name := range d.OutputNames() {
		b = append(canonjson.AppendString(comma(b, i), name), ':')
		b = d.Outputs[name].appendJSON(b)
	}
	if text, ok := d.Env[jsonVar]; ok {
		attrs, err := canonjson.Canonicalise([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("derivation '%s': %w", d.Name, err)
		}
		b = append(append(b, `},"structuredAttrs":`...), attrs...)
	} else {
		b = append(b, '}')
	}
	b = canonjson.AppendString(append(b, `,"system":`...), d.Platform)
	return fmt.Appendf(b, `,"version":%d}`, JSONVersion), nil
}

// checkUTF8 refuses what JSON cannot hold, as Nix does.
func (d *Derivation) checkUTF8() error {
	for _, s := range append([]string{d.Builder, d.Platform}, d.Args...) {
		if err := canonjson.Valid(s); err != nil {
			return fmt.Errorf("derivation '%s': %w", d.Name, err)
		}
	}
	for k, v := range d.Env {
		if err := canonjson.Valid(k + v); err != nil {
			return fmt.Errorf("derivation '%s': environment variable %.100q: %w", d.Name, k, err)
		}
	}
	return nil
}

func appendNodeJSON(b []byte, n InputNode) []byte {
	b = append(b, `{"dynamicOutputs":{`...)
	for i, name := range slices.Sorted(maps.Keys(n.Dynamic)) {
		b = append(canonjson.AppendString(comma(b, i), name), ':')
		b = appendNodeJSON(b, n.Dynamic[name])
	}
	return append(canonjson.AppendStrings(append(b, `},"outputs":`...), n.Outputs), '}')
}

func (o Output) appendJSON(b []byte) []byte {
	switch o.Kind {
	case InputAddressed:
		return fmt.Appendf(b, `{"path":"%s"}`, o.Path.Base())
	case Fixed:
		return fmt.Appendf(b, `{"hash":"%s","method":"%s"}`, o.CA.Hash.Digest(nixhash.SRI), o.CA.Method)
	case Floating:
		return fmt.Appendf(b, `{"hashAlgo":"%s","method":"%s"}`, o.Spec.Algorithm, o.Spec.Method)
	case Impure:
		return fmt.Appendf(b, `{"hashAlgo":"%s","impure":true,"method":"%s"}`, o.Spec.Algorithm, o.Spec.Method)
	default:
		return append(b, "{}"...)
	}
}

// UnmarshalJSON is the inverse of MarshalJSON. Members that it does not know are
// passed over, those of outputs excepted.
func (d *Derivation) UnmarshalJSON(data []byte) error {
	var j derivationJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return fmt.Errorf("%w: JSON of a derivation: %w", ErrFormat, err)
	}
	if j.Version == nil || *j.Version != JSONVersion {
		return fmt.Errorf("%w: Unsupported derivation JSON format version, only format version %d is currently supported.", ErrFormat, JSONVersion)
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

func bases(paths []storepath.Path) []string {
	out := make([]string, len(paths))
	for i, p := range paths {
		out[i] = p.Base()
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
