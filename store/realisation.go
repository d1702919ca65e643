package store

import (
	"fmt"
	"strings"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

// DrvOutput names an output of a derivation by the derivation's hash modulo, so
// that equivalent derivations share it.
type DrvOutput struct {
	DrvHash nixhash.Hash
	Output  string
}

// String is "sha256:<base16>!<output>".
func (o DrvOutput) String() string { return o.DrvHash.Text(nixhash.Base16) + "!" + o.Output }

// MarshalText is String.
func (o DrvOutput) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText is ParseDrvOutput.
func (o *DrvOutput) UnmarshalText(text []byte) (err error) {
	*o, err = ParseDrvOutput(string(text))
	return err
}

// ParseDrvOutput is the inverse of String.
func ParseDrvOutput(s string) (DrvOutput, error) {
	hash, output, ok := strings.Cut(s, "!")
	if !ok {
		return DrvOutput{}, fmt.Errorf("invalid derivation output id '%.200s': no '!'", s)
	}
	h, err := nixhash.Parse(hash)
	if err != nil {
		return DrvOutput{}, fmt.Errorf("invalid derivation output id '%.200s': %w", s, err)
	}
	if err := storepath.CheckName(output); err != nil {
		return DrvOutput{}, fmt.Errorf("invalid derivation output id '%.200s': %w", s, err)
	}
	return DrvOutput{DrvHash: h, Output: output}, nil
}

// Realisation says which store object an output of a content-addressed
// derivation turned out to be. Its JSON is that of the worker protocol and of
// binary caches.
type Realisation struct {
	ID         DrvOutput
	OutPath    storepath.Path
	Signatures []Signature
	Dependent  map[DrvOutput]storepath.Path // realisations that this one was built with
}
