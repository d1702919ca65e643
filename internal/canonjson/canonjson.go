// Package canonjson writes JSON byte for byte as Nix does where the bytes
// matter, because they are hashed or signed: compact, keys sorted by their
// bytes, and in strings nothing escaped but what has to be.
//
// encoding/json comes close, but escapes U+2028 and U+2029 whatever one tells
// it, and needs an encoder to leave <, > and & alone.
package canonjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"unicode/utf8"
)

// maxDepth bounds how deep values may be nested; encoding/json has a bound of
// its own that is far higher.
const maxDepth = 512

// ErrInvalid is the cause of every error about a value that cannot be written.
var ErrInvalid = errors.New("not representable as JSON")

const hexDigits = "0123456789abcdef"

// short are the escapes that are not \u00XX.
var short = [0x20]byte{'\b': 'b', '\f': 'f', '\n': 'n', '\r': 'r', '\t': 't'}

// AppendString appends s as a JSON string. What is not UTF-8 is copied as it
// is; see Valid.
func AppendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	from := 0
	for i := range len(s) {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[from:i]...)
		from = i + 1
		switch {
		case c >= 0x20:
			dst = append(dst, '\\', c)
		case short[c] != 0:
			dst = append(dst, '\\', short[c])
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
		}
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}

// AppendStrings appends a list of strings.
func AppendStrings(dst []byte, list []string) []byte {
	dst = append(dst, '[')
	for i, s := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendString(dst, s)
	}
	return append(dst, ']')
}

// Valid refuses strings that JSON cannot hold.
func Valid(s string) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("%w: %.100q is not UTF-8", ErrInvalid, s)
	}
	return nil
}

// Canonicalise rewrites one JSON object. Of a key that comes twice the last
// value stays, as in Nix. Numbers keep their spelling.
func Canonicalise(object []byte) ([]byte, error) {
	v, err := Decode(object)
	if err != nil {
		return nil, err
	}
	return AppendValue(nil, v)
}

// Decode reads one JSON object and nothing else. Its values are nil, bool,
// json.Number, string, []any and map[string]any.
func Decode(object []byte) (map[string]any, error) {
	dec := json.NewDecoder(bytes.NewReader(object))
	dec.UseNumber()
	var v map[string]any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if v == nil {
		return nil, fmt.Errorf("%w: null where an object belongs", ErrInvalid)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows the object", ErrInvalid)
	}
	return v, nil
}

// AppendValue appends a value that is made of what Decode gives.
func AppendValue(dst []byte, v any) ([]byte, error) { return appendValue(dst, v, 0) }

func appendValue(dst []byte, v any, depth int) (_ []byte, err error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("%w: nested more than %d deep", ErrInvalid, maxDepth)
	}
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...), nil
	case bool:
		if v {
			return append(dst, "true"...), nil
		}
		return append(dst, "false"...), nil
	case json.Number:
		return append(dst, v...), nil
	case string:
		return AppendString(dst, v), nil
	case []any:
		dst = append(dst, '[')
		for i, e := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst, err = appendValue(dst, e, depth+1); err != nil {
				return nil, err
			}
		}
		return append(dst, ']'), nil
	case map[string]any:
		dst = append(dst, '{')
		for i, k := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(AppendString(dst, k), ':')
			if dst, err = appendValue(dst, v[k], depth+1); err != nil {
				return nil, err
			}
		}
		return append(dst, '}'), nil
	default:
		return nil, fmt.Errorf("%w: %T", ErrInvalid, v)
	}
}
