package environment

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/bits"
	"slices"
	"unicode/utf8"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/internal/canonjson"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// jsonVar is the variable that holds structured attributes.
const jsonVar = "__json"

// structured writes the attributes to files, for shells and for everybody else.
// Nothing of the derivation becomes a variable.
func (e *Environment) structured(ctx context.Context, spec *Spec, text string) error {
	attrs, err := parseAttrs(text)
	if err != nil {
		return rejected("cannot process %s attribute: %v", jsonVar, err)
	}
	outputs := map[string]any{}
	for name := range spec.Drv.Outputs {
		outputs[name] = derivation.OutputPlaceholder(name)
	}
	attrs["outputs"] = outputs
	for _, key := range slices.Sorted(maps.Keys(spec.ExportReferencesGraph)) {
		infos, err := spec.graph(ctx, spec.ExportReferencesGraph[key])
		if err != nil {
			return err
		}
		if attrs[key], err = graphAttr(spec.Store.Dir(), infos); err != nil {
			return err
		}
	}
	all, err := canonjson.AppendValue(nil, attrs)
	if err != nil {
		return rejected("cannot process %s attribute: %v", jsonVar, err)
	}
	e.file(spec, "NIX_ATTRS_JSON_FILE", ".attrs.json", string(all))
	e.file(spec, "NIX_ATTRS_SH_FILE", ".attrs.sh", shell(attrs))
	return nil
}

// parseAttrs reads a JSON object whose numbers are spelled as Nix spells them.
func parseAttrs(text string) (map[string]any, error) {
	if !utf8.ValidString(text) {
		return nil, errors.New("not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader([]byte(text)))
	dec.UseNumber()
	var attrs map[string]any
	if err := dec.Decode(&attrs); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); attrs == nil || !errors.Is(err, io.EOF) {
		return nil, errors.New("not one JSON object")
	}
	_, err := respell(attrs)
	return attrs, err
}

// respell puts the numbers of a value into Nix's spelling. Objects and lists are
// changed in place.
func respell(v any) (_ any, err error) {
	switch v := v.(type) {
	case json.Number:
		return number(v)
	case []any:
		for i := range v {
			if v[i], err = respell(v[i]); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for k := range v {
			if v[k], err = respell(v[k]); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

// graphAttr is a graph of references among structured attributes. Its keys are a
// part of what builders rely on: none may be added.
func graphAttr(dir storepath.Dir, infos []*store.PathInfo) ([]any, error) {
	sizes, err := closureSizes(dir, infos)
	if err != nil {
		return nil, err
	}
	list := make([]any, len(infos))
	for i, info := range infos {
		refs := make([]any, len(info.References))
		for n, r := range info.References {
			refs[n] = dir.Print(r)
		}
		attr := map[string]any{
			"closureSize": json.Number(fmt.Sprint(sizes[info.Path])),
			"narHash":     info.NarHash.Text(nixhash.Nix32),
			"narSize":     json.Number(fmt.Sprint(info.NarSize)),
			"path":        dir.Print(info.Path),
			"references":  refs,
			"valid":       true,
		}
		if !info.CA.IsZero() {
			attr["ca"] = info.CA.String()
		}
		list[i] = attr
	}
	return list, nil
}

// sumSizes adds up the sizes of those of infos whose bits are set.
func sumSizes(infos []*store.PathInfo, row *[columns / 64]uint64) (sum uint64) {
	for w, word := range row {
		for ; word != 0; word &= word - 1 {
			sum += infos[w*64+bits.TrailingZeros64(word)].NarSize
		}
	}
	return sum
}
