package derivation

import (
	"fmt"
	"strings"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

// Kind says how an output is addressed. All outputs of a derivation have the
// same.
type Kind uint8

// The kinds of outputs.
const (
	// InputAddressed: the path follows from the derivation.
	InputAddressed Kind = iota + 1
	// Fixed: the path follows from contents that are known beforehand.
	Fixed
	// Floating: the path follows from the contents that the build makes.
	Floating
	// Deferred: the path follows from the derivation, once the paths of its inputs
	// are known, which some build has to tell.
	Deferred
	// Impure is Floating, and built each time anew.
	Impure
)

// HasKnownPath tells that the path is known before the build.
func (k Kind) HasKnownPath() bool { return k == InputAddressed || k == Fixed }

// IsContentAddressed tells that the path follows from contents.
func (k Kind) IsContentAddressed() bool { return k == Fixed || k == Floating || k == Impure }

// IsSandboxed tells that the build must not see the network.
func (k Kind) IsSandboxed() bool { return k != Fixed && k != Impure }

// Output is one output of a derivation. It is comparable.
type Output struct {
	Kind Kind
	Path storepath.Path           // InputAddressed
	CA   storepath.ContentAddress // Fixed
	Spec storepath.Spec           // Floating, Impure
}

// StorePath is where the output is or will be; zero when that is not known
// before the build. drvName is the derivation's name, name that of the output.
func (o Output) StorePath(dir storepath.Dir, drvName, name string) (storepath.Path, error) {
	switch o.Kind {
	case InputAddressed:
		return o.Path, nil
	case Fixed:
		return dir.Make(storepath.OutputName(drvName, name), o.CA, storepath.References{})
	default:
		return storepath.Path{}, nil
	}
}

// OutputPaths are the paths of all outputs, zero where not known.
func (b *Basic) OutputPaths(dir storepath.Dir) (map[string]storepath.Path, error) {
	paths := make(map[string]storepath.Path, len(b.Outputs))
	for name, o := range b.Outputs {
		p, err := o.StorePath(dir, b.Name, name)
		if err != nil {
			return nil, fmt.Errorf("%w: output '%s' of derivation '%s': %w", ErrInvalid, name, b.Name, err)
		}
		paths[name] = p
	}
	return paths, nil
}

// Kind is the kind of all outputs, or says why they do not go together.
func (b *Basic) Kind() (Kind, error) {
	fault := func(why string) (Kind, error) {
		return 0, fmt.Errorf("%w: derivation '%s': %s", ErrInvalid, b.Name, why)
	}
	var first Output
	for name, o := range b.Outputs {
		switch {
		case o.Kind == Fixed && len(b.Outputs) == 1 && name != "out":
			return fault("single fixed output must be named \"out\"")
		case first.Kind == 0:
			first = o
		case first.Kind != o.Kind:
			return fault("can't mix derivation output types")
		case o.Kind == Fixed:
			return fault("only one fixed output is allowed for now")
		case o.Kind == Floating && first.Spec.Algorithm != o.Spec.Algorithm:
			return fault("all floating outputs must use the same hash algorithm")
		}
	}
	if first.Kind == 0 {
		return fault("must have at least one output")
	}
	return first.Kind, nil
}

func (o Output) features(need map[string]bool) {
	method := o.Spec.Method
	switch o.Kind {
	case Floating:
		need["ca-derivations"] = true
	case Impure:
		need["impure-derivations"] = true
	case Fixed:
		method = o.CA.Method
	}
	switch method {
	case storepath.Text:
		need["dynamic-derivations"] = true
	case storepath.Git:
		need["git-hashing"] = true
	}
	if o.Spec.Algorithm == nixhash.BLAKE3 || o.CA.Hash.Algorithm() == nixhash.BLAKE3 {
		need["blake3-hashes"] = true
	}
}

// impureMark stands where the hash of a fixed output would.
const impureMark = "impure"

// fields spells an output as the three strings of the file and of the protocol:
// path, method with algorithm, hash.
func (o Output) fields(dir storepath.Dir, drvName, name string) (path, algo, hash string, err error) {
	switch o.Kind {
	case InputAddressed:
		return dir.Print(o.Path), "", "", nil
	case Fixed:
		p, err := o.StorePath(dir, drvName, name)
		if err != nil {
			return "", "", "", fmt.Errorf("%w: output '%s' of derivation '%s': %w", ErrInvalid, name, drvName, err)
		}
		return dir.Print(p), methodAlgo(o.CA.Method, o.CA.Hash.Algorithm()), o.CA.Hash.Digest(nixhash.Base16), nil
	case Floating:
		return "", methodAlgo(o.Spec.Method, o.Spec.Algorithm), "", nil
	case Impure:
		return "", methodAlgo(o.Spec.Method, o.Spec.Algorithm), impureMark, nil
	case Deferred:
		return "", "", "", nil
	default:
		return "", "", "", fmt.Errorf("%w: output '%s' of derivation '%s' has no kind", ErrInvalid, name, drvName)
	}
}

// methodAlgo is the old spelling, without "fixed:".
func methodAlgo(m storepath.Method, a nixhash.Algorithm) string {
	return strings.TrimPrefix(storepath.Spec{Method: m, Algorithm: a}.String(), "fixed:")
}

func parseMethodAlgo(text string) (s storepath.Spec, err error) {
	algo := text
	if rest, ok := strings.CutPrefix(text, "r:"); ok {
		s.Method, algo = storepath.Recursive, rest
	} else if rest, ok := strings.CutPrefix(text, "git:"); ok {
		s.Method, algo = storepath.Git, rest
	} else if rest, ok := strings.CutPrefix(text, "text:"); ok {
		s.Method, algo = storepath.Text, rest
	} else {
		s.Method = storepath.Flat
	}
	s.Algorithm, err = nixhash.ParseAlgorithm(algo)
	return s, err
}

// parseOutput is the inverse of fields. The path of a fixed output must be the
// one that it has.
func parseOutput(dir storepath.Dir, drvName, name, path, algo, hash string) (Output, error) {
	if err := storepath.CheckName(name); err != nil {
		return Output{}, err
	}
	if algo == "" {
		return parsePlainOutput(dir, path, hash)
	}
	spec, err := parseMethodAlgo(algo)
	if err != nil {
		return Output{}, err
	}
	switch {
	case hash == "" && path != "":
		return Output{}, fmt.Errorf("%w: content-addressing derivation output should not specify output path", ErrFormat)
	case hash == "":
		return Output{Kind: Floating, Spec: spec}, nil
	case hash == impureMark && path != "":
		return Output{}, fmt.Errorf("%w: impure derivation output should not specify output path", ErrFormat)
	case hash == impureMark:
		return Output{Kind: Impure, Spec: spec}, nil
	}
	h, err := nixhash.ParseDigest(hash, spec.Algorithm)
	if err != nil {
		return Output{}, err
	}
	o := Output{Kind: Fixed, CA: storepath.ContentAddress{Method: spec.Method, Hash: h}}
	p, err := o.StorePath(dir, drvName, name)
	if err != nil {
		return Output{}, err
	}
	if got, err := dir.Parse(path); err != nil {
		return Output{}, err
	} else if got != p {
		return Output{}, fmt.Errorf("%w: fixed output has path '%s', should be '%s'", ErrFormat, path, dir.Print(p))
	}
	return o, nil
}

func parsePlainOutput(dir storepath.Dir, path, hash string) (Output, error) {
	if hash != "" {
		return Output{}, fmt.Errorf("%w: output has a hash but no hash algorithm", ErrFormat)
	}
	if path == "" {
		return Output{Kind: Deferred}, nil
	}
	p, err := dir.Parse(path)
	return Output{Kind: InputAddressed, Path: p}, err
}
