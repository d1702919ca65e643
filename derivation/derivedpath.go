package derivation

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/strata-nix/strata/storepath"
)

// Limits on one derived path; nobody comes near.
const (
	maxDerivedDepth = 32
	maxDerivedNames = 1 << 16
)

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
	// Outputs wanted, sorted, no doubles; nil for the object itself. All of them is
	// []string{"*"}.
	Outputs []string
}

// AllOutputs stands for every output of a derivation.
const AllOutputs = "*"

// The signs between a derivation and its outputs.
const (
	wireSeparator = "!" // in the worker protocol
	userSeparator = "^" // on the command line and in messages
)

// IsOpaque tells that the object itself is wanted, not what it builds.
func (d DerivedPath) IsOpaque() bool { return d.Outputs == nil }

// WantsAll tells that every output of a derivation is wanted.
func (d DerivedPath) WantsAll() bool { return len(d.Outputs) == 1 && d.Outputs[0] == AllOutputs }

// Drv is the derivation whose outputs are wanted, as something to be had itself;
// of an opaque path the path.
func (d DerivedPath) Drv() DerivedPath {
	if len(d.Through) == 0 {
		return DerivedPath{Path: d.Path}
	}
	last := len(d.Through) - 1
	return DerivedPath{Path: d.Path, Through: d.Through[:last:last], Outputs: d.Through[last:]}
}

// Of wants outputs of the derivation that d is: the inverse of Drv.
func (d DerivedPath) Of(outputs ...string) DerivedPath {
	return DerivedPath{Path: d.Path, Through: append(slices.Clone(d.Through), d.Outputs...), Outputs: outputs}
}

// ParseDerivedPath reads the spelling of the worker protocol: a store path, or
// "<drv>!out,dev", "<drv>!*", and for dynamic derivations "<drv>!out!out".
func ParseDerivedPath(dir storepath.Dir, text string) (DerivedPath, error) {
	return parseDerived(dir, text, wireSeparator)
}

// ParseDerivedPathArg reads the spelling of the command line: the same with "^"
// in place of "!".
func ParseDerivedPathArg(dir storepath.Dir, text string) (DerivedPath, error) {
	return parseDerived(dir, text, userSeparator)
}

func parseDerived(dir storepath.Dir, text, sep string) (DerivedPath, error) {
	base, rest, derived := strings.Cut(text, sep)
	p, err := dir.Parse(base)
	if err != nil {
		return DerivedPath{}, fmt.Errorf("%w: %w", ErrDerivedPath, err)
	}
	d := DerivedPath{Path: p}
	if !derived {
		return d, nil
	}
	last := rest
	if i := strings.LastIndex(rest, sep); i >= 0 {
		last = rest[i+len(sep):]
		if strings.Count(rest[:i], sep) >= maxDerivedDepth {
			return DerivedPath{}, fmt.Errorf("%w: '%.300s…' names more than %d derivations", ErrDerivedPath, text, maxDerivedDepth)
		}
		d.Through = strings.Split(rest[:i], sep)
	}
	for _, name := range d.Through {
		if err := storepath.CheckName(name); err != nil {
			return DerivedPath{}, fmt.Errorf("%w: output name in '%.300s': %w", ErrDerivedPath, text, err)
		}
	}
	if d.Outputs, err = parseOutputNames(last); err != nil {
		return DerivedPath{}, fmt.Errorf("%w: output name in '%.300s': %w", ErrDerivedPath, text, err)
	}
	return d, nil
}

// parseOutputNames reads "out,dev" or "*".
func parseOutputNames(text string) ([]string, error) {
	if text == AllOutputs {
		return []string{AllOutputs}, nil
	}
	var names []string
	for name := range strings.SplitSeq(text, ",") {
		if err := storepath.CheckName(name); err != nil {
			return nil, err
		}
		if len(names) == maxDerivedNames {
			return nil, fmt.Errorf("%w: more than %d outputs", ErrDerivedPath, maxDerivedNames)
		}
		names = append(names, name)
	}
	return sortNames(names), nil
}

// Text is the inverse of ParseDerivedPath.
func (d DerivedPath) Text(dir storepath.Dir) string { return d.join(dir, wireSeparator) }

// Arg is the inverse of ParseDerivedPathArg.
func (d DerivedPath) Arg(dir storepath.Dir) string { return d.join(dir, userSeparator) }

// String is the spelling for people, with "^" as on the command line.
func (d DerivedPath) String() string { return d.join("", userSeparator) }

func (d DerivedPath) join(dir storepath.Dir, sep string) string {
	s := d.Path.Base()
	if dir != "" {
		s = dir.Print(d.Path)
	}
	parts := append([]string{s}, d.Through...)
	if d.Outputs != nil {
		parts = append(parts, strings.Join(d.Outputs, ","))
	}
	return strings.Join(parts, sep)
}

// Equal tells whether both ask for the same.
func (d DerivedPath) Equal(o DerivedPath) bool {
	return d.Path == o.Path && slices.Equal(d.Through, o.Through) &&
		d.IsOpaque() == o.IsOpaque() && slices.Equal(d.Outputs, o.Outputs)
}
