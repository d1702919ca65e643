package derivation

import (
	"maps"
	"slices"
	"strings"

	"github.com/strata-nix/strata/storepath"
)

// ATerm is the text of the .drv file, in the old form unless only the versioned
// one can hold it. It fails only for an output that cannot be.
func (d *Derivation) ATerm(dir storepath.Dir) ([]byte, error) {
	return d.appendATerm(make([]byte, 0, 4096), dir, false, nil)
}

// appendATerm appends the text of the file; or, for hashing, with the paths of
// the outputs left out (mask), and with hashes modulo in place of the input
// derivations (inputs, unless nil).
func (d *Derivation) appendATerm(b []byte, dir storepath.Dir, mask bool, inputs map[string]InputNode) ([]byte, error) {
	if d.HasDynamicInputs() {
		b = append(appendString(append(b, "DrvWithVersion("...), dynamicVersion), ",["...)
	} else {
		b = append(b, "Derive(["...)
	}
	for i, name := range d.OutputNames() {
		path, algo, hash, err := d.Outputs[name].fields(dir, d.Name, name)
		if err != nil {
			return nil, err
		}
		if mask {
			path = ""
		}
		b = appendTuple(comma(b, i), name, path, algo, hash)
	}
	b = append(b, "],["...)
	if inputs == nil {
		inputs = make(map[string]InputNode, len(d.InputDrvs))
		for p, n := range d.InputDrvs {
			inputs[dir.Print(p)] = n
		}
	}
	for i, key := range slices.Sorted(maps.Keys(inputs)) {
		b = appendString(append(comma(b, i), '('), key)
		b = append(appendNode(append(b, ','), inputs[key]), ')')
	}
	b = append(b, "],"...)
	b = appendList(b, dir.PrintAll(d.InputSrcs))
	b = appendString(append(b, ','), d.Platform)
	b = appendString(append(b, ','), d.Builder)
	b = appendList(append(b, ','), d.Args)
	b = append(b, ",["...)
	for i, name := range slices.Sorted(maps.Keys(d.Env)) {
		value := d.Env[name]
		if _, ok := d.Outputs[name]; ok && mask {
			value = ""
		}
		b = appendTuple(comma(b, i), name, value)
	}
	return append(b, "])"...), nil
}

func appendNode(b []byte, n InputNode) []byte {
	if len(n.Dynamic) == 0 {
		return appendList(b, n.Outputs)
	}
	b = append(appendList(append(b, '('), n.Outputs), ",["...)
	for i, name := range slices.Sorted(maps.Keys(n.Dynamic)) {
		b = appendString(append(comma(b, i), '('), name)
		b = append(appendNode(append(b, ','), n.Dynamic[name]), ')')
	}
	return append(b, "])"...)
}

// comma goes before every element but the first.
func comma(b []byte, i int) []byte {
	if i > 0 {
		return append(b, ',')
	}
	return b
}

func appendTuple(b []byte, parts ...string) []byte {
	b = append(b, '(')
	for i, s := range parts {
		b = appendString(comma(b, i), s)
	}
	return append(b, ')')
}

func appendList(b []byte, list []string) []byte {
	b = append(b, '[')
	for i, s := range list {
		b = appendString(comma(b, i), s)
	}
	return append(b, ']')
}

func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for {
		i := strings.IndexAny(s, "\"\\\n\r\t")
		if i < 0 {
			return append(append(b, s...), '"')
		}
		b = append(append(b, s[:i]...), '\\')
		switch s[i] {
		case '\n':
			b = append(b, 'n')
		case '\r':
			b = append(b, 'r')
		case '\t':
			b = append(b, 't')
		default:
			b = append(b, s[i])
		}
		s = s[i+1:]
	}
}
