package store

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/strata-nix/strata/storepath"
)

// realisationJSON has its fields in the order of their names, which is the
// order that Nix writes.
type realisationJSON struct {
	Dependent  map[DrvOutput]string `json:"dependentRealisations"`
	ID         *DrvOutput           `json:"id"`
	OutPath    string               `json:"outPath"` // without the store directory
	Signatures []Signature          `json:"signatures"`
}

// MarshalJSON writes the JSON of the worker protocol and of binary caches.
// Source: the Nix manual, "realisation" of the JSON formats.
func (r *Realisation) MarshalJSON() ([]byte, error) {
	v := realisationJSON{
		Dependent:  make(map[DrvOutput]string, len(r.Dependent)),
		ID:         &r.ID,
		OutPath:    r.OutPath.Base(),
		Signatures: r.Signatures,
	}
	for id, p := range r.Dependent {
		v.Dependent[id] = p.Base()
	}
	if v.Signatures == nil {
		v.Signatures = []Signature{}
	}
	return json.Marshal(v)
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
	slices.Sort(out.Signatures)
	out.Signatures = slices.Compact(out.Signatures)
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
