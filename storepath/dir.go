package storepath

import (
	"path"
	"strings"
)

// DefaultDir is where a store lies unless somebody says otherwise.
const DefaultDir Dir = "/nix/store"

// Dir is a store directory, as store objects know it: absolute, clean, part of
// every hash. Where its files really are is another matter (see the store's own
// settings).
type Dir string

// ParseDir reads a store directory.
func ParseDir(s string) (Dir, error) {
	if !path.IsAbs(s) || strings.IndexByte(s, 0) >= 0 {
		return "", malformed(s, "cannot be a store directory: it is not absolute")
	}
	c := path.Clean(s)
	if c == "/" {
		return "", malformed(s, "cannot be a store directory")
	}
	return Dir(c), nil
}

// Print spells a store path in full.
func (d Dir) Print(p Path) string { return string(d) + "/" + p.base }

// PrintAll spells store paths in full.
func (d Dir) PrintAll(paths []Path) []string {
	out := make([]string, len(paths))
	for i, p := range paths {
		out[i] = d.Print(p)
	}
	return out
}

// Parse reads a full store path: the directory, a slash, and nothing below the
// object. Like Nix it takes doubled slashes and dots on the way.
func (d Dir) Parse(s string) (Path, error) {
	if base, ok := strings.CutPrefix(s, string(d)+"/"); ok && strings.IndexByte(base, '/') < 0 {
		return d.parseBase(s, base)
	}
	if !path.IsAbs(s) {
		return Path{}, malformed(s, "is not in the Nix store")
	}
	dir, base := path.Split(path.Clean(s))
	if path.Clean(dir) != string(d) {
		return Path{}, malformed(s, "is not in the Nix store")
	}
	return d.parseBase(s, base)
}

func (d Dir) parseBase(s, base string) (Path, error) {
	p, err := ParseBase(base)
	if err != nil {
		if f, ok := err.(*FormatError); ok { //nolint:errorlint // made one line above
			return Path{}, malformed(s, "%s", f.Why)
		}
		return Path{}, err
	}
	return p, nil
}

// Split reads the path of a file inside a store object: the object, and the
// rest after it, "" or with a leading slash.
func (d Dir) Split(s string) (Path, string, error) {
	if !path.IsAbs(s) {
		return Path{}, "", malformed(s, "is not in the Nix store")
	}
	inner, ok := strings.CutPrefix(path.Clean(s), string(d)+"/")
	if !ok {
		return Path{}, "", malformed(s, "is not in the Nix store")
	}
	base, rest, deeper := strings.Cut(inner, "/")
	p, err := d.parseBase(s, base)
	if err != nil {
		return Path{}, "", err
	}
	if deeper {
		rest = "/" + rest
	}
	return p, rest, nil
}
