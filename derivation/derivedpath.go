package derivation

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/strata-nix/strata/storepath"
)

// maxDerivedDepth bounds how deep dynamic derivations may be named in one
// derived path; nobody nests more than a few.
const maxDerivedDepth = 32

// ErrDerivedPath is the cause of every error about a text that is not a derived
// path.
var ErrDerivedPath = errors.New("malformed derived path")

// DerivedPath is what a client asks for: a store object as it is, or outputs of
// a derivation, which may itself be an output of a derivation.
type DerivedPath struct {
	// Path is the store path that everything starts from.
	Path storepath.Path
	// Through is the chain of single outputs from Path to the derivation whose
	// Outputs are wanted; empty unless derivations are dynamic.
	Through []string
	// Outputs wanted, sorted; nil for the object itself. All of them is
	// []string{"*"}.
	Outputs []string
}

// AllOutputs stands for every output of a derivation.
const AllOutputs = "*"

// IsOpaque tells that the object itself is wanted, not what it builds.
func (d DerivedPath) IsOpaque() bool { return d.Outputs == nil }

// ParseDerivedPath reads the spelling of the worker protocol: a store path, or
// "<drv>!out,dev", "<drv>!*", and for dynamic derivations "<drv>!out!out".
func ParseDerivedPath(dir storepath.Dir, text string) (DerivedPath, error) {
	parts := strings.Split(text, "!")
	if len(parts) > maxDerivedDepth {
		return DerivedPath{}, fmt.Errorf("%w: '%.300s…' names more than %d derivations", ErrDerivedPath, text, maxDerivedDepth)
	}
	p, err := dir.Parse(parts[0])
	if err != nil {
		return DerivedPath{}, err
	}
	d := DerivedPath{Path: p}
	if len(parts) == 1 {
		return d, nil
	}
	d.Through = slices.Clone(parts[1 : len(parts)-1])
	d.Outputs = strings.Split(parts[len(parts)-1], ",")
	slices.Sort(d.Outputs)
	d.Outputs = slices.Compact(d.Outputs)
	for _, name := range slices.Concat(d.Through, d.Outputs) {
		if name == AllOutputs && len(d.Outputs) == 1 && !slices.Contains(d.Through, AllOutputs) {
			continue
		}
		if err := storepath.CheckName(name); err != nil {
			return DerivedPath{}, fmt.Errorf("%w: output name in '%.300s': %w", ErrDerivedPath, text, err)
		}
	}
	return d, nil
}

// Text is the inverse of ParseDerivedPath.
func (d DerivedPath) Text(dir storepath.Dir) string { return d.join(dir, "!") }

// String is the spelling for people, with "^" as on the command line.
func (d DerivedPath) String() string { return d.join("", "^") }

func (d DerivedPath) join(dir storepath.Dir, sep string) string {
	s := d.Path.Base()
	if dir != "" {
		s = dir.Print(d.Path)
	}
	for _, t := range d.Through {
		s += sep + t
	}
	if d.Outputs != nil {
		s += sep + strings.Join(d.Outputs, ",")
	}
	return s
}
