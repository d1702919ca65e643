package derivation

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/strata-nix/strata/internal/canonjson"
)

// attrs are the attributes of a derivation, in the one or the other form. The
// first thing that is wrong stays in err.
type attrs struct {
	structured bool
	values     map[string]any    // if structured
	env        map[string]string // else
	err        error
}

func (a *attrs) fail(where string, err error) {
	if a.err != nil {
		return
	}
	if where != "" {
		err = fmt.Errorf("%s: %w", where, err)
	}
	a.err = err
}

// value looks an attribute up that is structured.
func (a *attrs) value(name string) (any, func(error), bool) {
	v, ok := a.values[name]
	return v, func(err error) {
		if err != nil {
			a.fail(fmt.Sprintf("while parsing attribute %q", name), err)
		}
	}, ok
}

func (a *attrs) text(name string) (s string) {
	if !a.structured {
		return a.env[name]
	}
	if v, check, ok := a.value(name); ok {
		var err error
		s, err = text(v)
		check(err)
	}
	return s
}

// bool is "1" in the environment.
func (a *attrs) bool(name string, def bool) bool {
	if !a.structured {
		s, ok := a.env[name]
		return ok && s == "1" || !ok && def
	}
	v, check, ok := a.value(name)
	if !ok {
		return def
	}
	b, err := boolean(v)
	check(err)
	return b
}

// set is words in the environment.
func (a *attrs) set(name string) []string { return sortNames(a.setIfThere(name)) }

// setIfThere is set, in no particular order, and nil only if there is no such
// attribute.
func (a *attrs) setIfThere(name string) []string {
	if !a.structured {
		s, ok := a.env[name]
		if !ok {
			return nil
		}
		return append([]string{}, strings.FieldsFunc(s, isSeparator)...)
	}
	v, check, ok := a.value(name)
	if !ok {
		return nil
	}
	list, err := texts(v)
	check(err)
	return list
}

func isSeparator(r rune) bool { return r == ' ' || r == '\t' || r == '\n' || r == '\r' }

// typeError is upstream's, word for word but for the length of what it shows.
func typeError(want string, v any) error {
	shown, _ := canonjson.AppendValue(nil, v) // came from JSON
	//lint:ignore ST1005 these are upstream's words
	return fmt.Errorf("Expected JSON value to be of type '%s' but it is of type '%s': %s", want, typeName(v), clip(string(shown)))
}

func typeName(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case json.Number:
		return "number"
	case string:
		return "string"
	case []any:
		return "array"
	default:
		return "object"
	}
}

func object(v any) (map[string]any, error) {
	m, ok := v.(map[string]any)
	if !ok {
		return nil, typeError("object", v)
	}
	return m, nil
}

func boolean(v any) (bool, error) {
	b, ok := v.(bool)
	if !ok {
		return false, typeError("boolean", v)
	}
	return b, nil
}

func text(v any) (string, error) {
	s, ok := v.(string)
	if !ok {
		return "", typeError("string", v)
	}
	return s, nil
}

// texts is never nil without an error.
func texts(v any) ([]string, error) {
	list, ok := v.([]any)
	if !ok {
		return nil, typeError("array", v)
	}
	out := make([]string, len(list))
	for i, e := range list {
		s, err := text(e)
		if err != nil {
			return nil, err
		}
		out[i] = s
	}
	return out, nil
}

// size reads a number of bytes. A negative one is as good as none, as upstream
// takes it for the unsigned number with the same bits.
func size(v any) (uint64, error) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, typeError("number", v)
	}
	if u, err := strconv.ParseUint(string(n), 10, 64); err == nil {
		return u, nil
	}
	if i, err := strconv.ParseInt(string(n), 10, 64); err == nil {
		return uint64(i), nil //nolint:gosec // meant
	}
	const most = 1 << 64
	f, err := n.Float64()
	if err != nil || f < 0 || f >= most {
		return 0, fmt.Errorf("%s is no number of bytes", clip(string(n)))
	}
	return uint64(f), nil
}
