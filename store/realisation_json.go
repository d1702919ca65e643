package store

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/strata-nix/strata/internal/canonjson"
	"github.com/strata-nix/strata/storepath"
)

// realisationJSON is for reading.
type realisationJSON struct {
	Dependent  map[DrvOutput]string `json:"dependentRealisations"`
	ID         *DrvOutput           `json:"id"`
	OutPath    string               `json:"outPath"` // without the store directory
	Signatures []Signature          `json:"signatures"`
}

// MarshalJSON writes the JSON of the worker protocol and of binary caches, byte
// for byte as Nix does. json.Marshal would escape what it gives once more, so
// call it directly where the bytes matter.
// Source: the Nix manual, "realisation" of the JSON formats.
func (r *Realisation) MarshalJSON() ([]byte, error) {
	b, err := r.appendJSON(nil)
	if err != nil {
		return nil, err
	}
	b = append(b, `,"signatures":[`...)
	for i, s := range SortSignatures(slices.Clone(r.Signatures)) {
		if err := canonjson.Valid(string(s)); err != nil {
			return nil, fmt.Errorf("signature of realisation '%s': %w", r.ID, err)
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = canonjson.AppendString(b, string(s))
	}
	return append(b, "]}"...), nil
}

// Fingerprint is the text that signatures of a realisation sign: its JSON
// without them.
func (r *Realisation) Fingerprint() (string, error) {
	b, err := r.appendJSON(nil)
	return string(append(b, '}')), err
}

// appendJSON appends all but the signatures and the end.
func (r *Realisation) appendJSON(b []byte) ([]byte, error) {
	if r.ID.DrvHash.IsZero() || r.OutPath.IsZero() {
		return nil, fmt.Errorf("realisation of '%s' has no id or no path", r.OutPath)
	}
	dependent := make(map[string]string, len(r.Dependent))
	for id, p := range r.Dependent {
		dependent[id.String()] = p.Base()
	}
	b = append(b, `{"dependentRealisations":{`...)
	for i, id := range slices.Sorted(maps.Keys(dependent)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(canonjson.AppendString(b, id), ':')
		b = canonjson.AppendString(b, dependent[id])
	}
	b = canonjson.AppendString(append(b, `},"id":`...), r.ID.String())
	return canonjson.AppendString(append(b, `,"outPath":`...), r.OutPath.Base()), nil
}

// UnmarshalJSON is the inverse of MarshalJSON. Signatures come out sorted,
// without doubles; fields that are not known are passed over.
func (r *Realisation) UnmarshalJSON(text []byte) error {
	var v realisationJSON
	if err := json.Unmarshal(text, &v); err != nil {
		return fmt.Errorf("malformed realisation: %w", err)
	}
	if v.ID == nil {
		return fmt.Errorf("malformed realisation: it has no id")
	}
	out := Realisation{ID: *v.ID}
	var err error
	if out.OutPath, err = storepath.ParseBase(v.OutPath); err != nil {
		return fmt.Errorf("malformed realisation '%s': %w", out.ID, err)
	}
	for _, s := range v.Signatures {
		sig, err := ParseSignature(string(s))
		if err != nil {
			return fmt.Errorf("malformed realisation '%s': %w", out.ID, err)
		}
		out.Signatures = append(out.Signatures, sig)
	}
	out.Signatures = SortSignatures(out.Signatures)
	for id, base := range v.Dependent {
		p, err := storepath.ParseBase(base)
		if err != nil {
			return fmt.Errorf("malformed realisation '%s': %w", out.ID, err)
		}
		if out.Dependent == nil {
			out.Dependent = make(map[DrvOutput]storepath.Path, len(v.Dependent))
		}
		out.Dependent[id] = p
	}
	*r = out
	return nil
}
