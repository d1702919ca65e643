package main

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/strata-nix/strata/internal/suggest"
	"github.com/strata-nix/strata/store"
)

// params reads the parameters of a store reference. Each is asked for by its
// name once; end says what is wrong with them, also that there are some that
// nobody asked for.
type params struct {
	ref   store.Reference
	known map[string]bool
	errs  []error
}

func newParams(ref store.Reference) *params {
	return &params{ref: ref, known: map[string]bool{}}
}

// text gives a parameter, or what it is if it is not there.
func (p *params) text(name, otherwise string) string {
	p.known[name] = true
	values := p.ref.Params[name]
	if len(values) == 0 {
		return otherwise
	}
	if len(values) > 1 {
		p.fail(name, "is given %d times", len(values))
	}
	return values[len(values)-1]
}

// texts gives a parameter that may be there several times.
func (p *params) texts(name string) []string {
	p.known[name] = true
	return p.ref.Params[name]
}

// path gives a parameter that is an absolute path.
func (p *params) path(name, otherwise string) string {
	v := p.text(name, otherwise)
	switch {
	case v == "" || v == otherwise:
		return otherwise
	case !filepath.IsAbs(v):
		p.fail(name, "has value '%s', which is not an absolute path", v)
	}
	return filepath.Clean(v)
}

// flag gives a parameter that is true or false.
func (p *params) flag(name string, otherwise bool) bool {
	v := p.text(name, "")
	if v == "" {
		return otherwise
	}
	b, ok := parseBool(v)
	if !ok {
		p.fail(name, "has value '%s', which is neither true nor false", v)
	}
	return b
}

// number gives a parameter that is an integer.
func (p *params) number(name string, otherwise int) int {
	v := p.text(name, "")
	if v == "" {
		return otherwise
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		p.fail(name, "has value '%s', which is not a number", v)
	}
	return n
}

// bytes gives a parameter that is a number of bytes.
func (p *params) bytes(name string, otherwise int64) int64 {
	n := p.number(name, 0)
	if n < 0 {
		p.fail(name, "has value '%d', which is negative", n)
	}
	if p.text(name, "") == "" {
		return otherwise
	}
	return int64(n)
}

// ignore takes parameters that mean nothing here, but that Nix knows.
func (p *params) ignore(names ...string) {
	for _, name := range names {
		p.known[name] = true
	}
}

func (p *params) fail(name, format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf("setting '%s' of store '%s' %s", name, p.ref, fmt.Sprintf(format, args...)))
}

// failf notes a mistake that is about no single setting.
func (p *params) failf(format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf(format, args...))
}

// end gives all errors.
func (p *params) end() error {
	for _, name := range slices.Sorted(maps.Keys(p.ref.Params)) {
		if !p.known[name] {
			hint := ""
			if near := suggest.Near(name, slices.Collect(maps.Keys(p.known))); near != "" {
				hint = fmt.Sprintf("; did you mean '%s'?", near)
			}
			p.fail(name, "is unknown%s", hint)
		}
	}
	if len(p.errs) == 0 {
		return nil
	}
	return &usageError{errors.Join(p.errs...)}
}

// parseBool reads what Nix takes for a truth value.
func parseBool(s string) (value, ok bool) {
	switch s {
	case "true", "yes", "1":
		return true, true
	case "false", "no", "0":
		return false, true
	}
	return false, false
}
