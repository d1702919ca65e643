package derivation

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"unicode/utf8"

	"github.com/strata-nix/strata/internal/canonjson"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

// StructuredAttrs are the attributes of a derivation that are not texts in its
// environment but one JSON object, and reach its builder as files.
type StructuredAttrs struct {
	// values are nil, bool, json.Number, string, []any and map[string]any.
	values map[string]any
}

// ParseStructuredAttrs reads the value of the variable __json.
func ParseStructuredAttrs(text string) (*StructuredAttrs, error) {
	fail := func(err error) error {
		return fmt.Errorf("%w: cannot process %s attribute: %w", ErrInvalid, jsonVar, err)
	}
	if !utf8.ValidString(text) {
		return nil, fail(errors.New("it is not UTF-8"))
	}
	values, err := canonjson.Decode([]byte(text))
	if err != nil {
		return nil, fail(err)
	}
	return &StructuredAttrs{values}, nil
}

// StructuredAttrs parses those of b; nil if it has none, and all that there is
// is its environment.
func (b *Basic) StructuredAttrs() (*StructuredAttrs, error) {
	text, ok := b.Env[jsonVar]
	if !ok {
		return nil, nil
	}
	return ParseStructuredAttrs(text)
}

// GraphNode is one object of a graph of references that a derivation wants to
// have among its structured attributes, as exportReferencesGraph says.
type GraphNode struct {
	Path        storepath.Path
	NarHash     nixhash.Hash
	NarSize     uint64
	References  []storepath.Path
	CA          storepath.ContentAddress // zero: none
	ClosureSize uint64                   // bytes of the NARs of all that it reaches, itself included
}

// Prepared is what a builder gets to see: the attributes with "outputs", which maps
// the names of outputs to their paths, and with each graph under its name. Both
// replace attributes of the same name.
func (a *StructuredAttrs) Prepared(dir storepath.Dir, outputs map[string]string, graphs map[string][]GraphNode) *StructuredAttrs {
	values := maps.Clone(a.values)
	paths := make(map[string]any, len(outputs))
	for name, p := range outputs {
		paths[name] = p
	}
	values["outputs"] = paths
	for name, nodes := range graphs {
		list := make([]any, len(nodes))
		for i, n := range nodes {
			list[i] = n.value(dir)
		}
		values[name] = list
	}
	return &StructuredAttrs{values}
}

// value is the node as builders know it. Its members are older than any version
// of the JSON format of path infos, and nothing may be added to them.
func (n *GraphNode) value(dir storepath.Dir) map[string]any {
	refs := make([]any, len(n.References))
	for i, r := range n.References {
		refs[i] = dir.Print(r)
	}
	v := map[string]any{
		"closureSize": number(n.ClosureSize),
		"narHash":     n.NarHash.Text(nixhash.Nix32),
		"narSize":     number(n.NarSize),
		"path":        dir.Print(n.Path),
		"references":  refs,
		"valid":       true,
	}
	if !n.CA.IsZero() {
		v["ca"] = n.CA.String()
	}
	return v
}

func number(n uint64) json.Number { return json.Number(strconv.FormatUint(n, 10)) }

// JSON is the contents of the file .attrs.json, before output paths are written
// into it (see [Rewrite]).
func (a *StructuredAttrs) JSON() ([]byte, error) {
	text, err := canonjson.AppendValue(nil, a.values)
	if err != nil {
		return nil, fmt.Errorf("%w: %s attribute: %w", ErrInvalid, jsonVar, err)
	}
	return text, nil
}
