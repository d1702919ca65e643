package derivation

import (
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

func bases(paths []storepath.Path) []string {
	out := make([]string, len(paths))
	for i, p := range paths {
		out[i] = p.Base()
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
