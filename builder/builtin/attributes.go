package builtin

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/strata-nix/strata/derivation"
)

// attributes are those of a derivation, as texts: structured ones become what
// they would be in an environment.
type attributes map[string]string

func attributesOf(drv *derivation.Basic) (attributes, error) {
	structured, err := drv.StructuredAttrs()
	if err != nil || structured == nil {
		return drv.Env, err
	}
	data, err := structured.JSON()
	if err != nil {
		return nil, err
	}
	var values map[string]any
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.UseNumber()
	if err := d.Decode(&values); err != nil {
		return nil, err
	}
	a := make(attributes, len(values))
	for name, v := range values {
		if s, ok := text(v); ok {
			a[name] = s
		}
	}
	return a, nil
}

// text is what Nix makes of a value in an environment.
func text(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		if v {
			return "1", true
		}
		return "", true
	case nil:
		return "", true
	case []any:
		words := make([]string, len(v))
		for i, e := range v {
			s, ok := text(e)
			if !ok {
				return "", false
			}
			words[i] = s
		}
		return strings.Join(words, " "), true
	}
	return "", false
}

// need is an attribute that must be there.
func (a attributes) need(name string) (string, error) {
	s, ok := a[name]
	if !ok {
		return "", fmt.Errorf("attribute '%s' missing", name)
	}
	return s, nil
}
