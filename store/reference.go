package store

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
)

// ErrReference is the cause of every error about a text that names no store.
var ErrReference = errors.New("malformed store reference")

// Reference names a store and says how it is to be opened: what `--store`, NIX_REMOTE
// and `lower-store` take.
// Source: the Nix manual, "Store URL format".
type Reference struct {
	// Scheme is "auto", "local", "local-overlay", "unix", "file", "https", …; the word "daemon" is read
	// as unix without an authority.
	Scheme string
	// Authority is what follows "://" up to the parameters: a path, or a host and a path.
	Authority string
	// Params in the order of nothing; a name may have several values where its
	// setting takes them.
	Params map[string][]string
}

// ParseReference reads a store reference.
func ParseReference(text string) (Reference, error) {
	base, query, _ := strings.Cut(text, "?")
	params, err := parseParams(query)
	if err != nil {
		return Reference{}, fmt.Errorf("%w: parameters of '%.300s': %w", ErrReference, text, err)
	}
	r := Reference{Params: params}
	scheme, rest, isURL := strings.Cut(base, "://")
	switch {
	case isURL && validScheme(scheme):
		r.Scheme = scheme
		if r.Authority, err = url.PathUnescape(rest); err != nil {
			return Reference{}, fmt.Errorf("%w: '%.300s': %w", ErrReference, text, err)
		}
		return r, nil
	case base == "" || base == "auto":
		r.Scheme = "auto"
	case base == "daemon":
		r.Scheme = "unix"
	case base == "local":
		r.Scheme = "local"
	case base == "local-overlay":
		r.Scheme = "local-overlay"
	case strings.Contains(base, "/") && !strings.Contains(base, "://") || base == "." || base == "..":
		// A directory is a chroot store.
		abs, err := filepath.Abs(base)
		if err != nil {
			return Reference{}, fmt.Errorf("%w: '%.300s': %w", ErrReference, text, err)
		}
		r.Scheme = "local"
		if len(r.Params["root"]) > 0 {
			return Reference{}, fmt.Errorf("%w: '%.300s' names its root twice", ErrReference, text)
		}
		r.Params["root"] = []string{abs}
	default:
		return Reference{}, fmt.Errorf("%w: don't know how to open Nix store with URI '%.300s'", ErrReference, text)
	}
	return r, nil
}

func validScheme(s string) bool {
	for i, c := range s {
		if c >= 'a' && c <= 'z' || i > 0 && (c >= '0' && c <= '9' || c == '-' || c == '+' || c == '.') {
			continue
		}
		return false
	}
	return s != ""
}

// parseParams reads "a=1&b=2". Unlike a form, "+" stands for itself.
func parseParams(query string) (map[string][]string, error) {
	params := map[string][]string{}
	for kv := range strings.SplitSeq(query, "&") {
		if kv == "" {
			continue
		}
		k, v, ok := strings.Cut(kv, "=")
		if !ok {
			return nil, fmt.Errorf("'%.100s' has no value", kv)
		}
		name, err := url.PathUnescape(k)
		if err != nil {
			return nil, err
		}
		value, err := url.PathUnescape(v)
		if err != nil {
			return nil, err
		}
		params[name] = append(params[name], value)
	}
	return params, nil
}

// Param is the last value of a parameter, "" when there is none.
func (r Reference) Param(name string) string {
	v := r.Params[name]
	if len(v) == 0 {
		return ""
	}
	return v[len(v)-1]
}

// String is the inverse of ParseReference, with the parameters sorted.
func (r Reference) String() string {
	var b strings.Builder
	b.WriteString(r.Scheme)
	if r.Authority != "" || (r.Scheme != "auto" && r.Scheme != "local") {
		b.WriteString("://")
		b.WriteString((&url.URL{Path: r.Authority}).EscapedPath())
	}
	sep := byte('?')
	for _, name := range slices.Sorted(maps.Keys(r.Params)) {
		for _, v := range r.Params[name] {
			b.WriteByte(sep)
			sep = '&'
			b.WriteString(escapeParam(name))
			b.WriteByte('=')
			b.WriteString(escapeParam(v))
		}
	}
	return b.String()
}

// escapeParam leaves slashes and colons readable.
func escapeParam(s string) string {
	const plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/:,@!$'()*;"
	var b strings.Builder
	for i := range len(s) {
		if strings.IndexByte(plain, s[i]) >= 0 {
			b.WriteByte(s[i])
		} else {
			fmt.Fprintf(&b, "%%%02X", s[i])
		}
	}
	return b.String()
}
