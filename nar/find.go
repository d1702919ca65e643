package nar

import (
	"fmt"
	"io"
	"io/fs"
	"strings"
)

// Find advances to the entry at a path, spelled as for Listing.Lookup, so that
// its contents can be read. If there is none, or Next went past it already, the
// error wraps fs.ErrNotExist. It reads no further than needed for the answer:
// what follows has not been checked, unless Next is called until io.EOF.
func (r *Reader) Find(path string) (Entry, error) {
	var want []string
	for name := range strings.SplitSeq(path, "/") {
		if name != "" && name != "." {
			want = append(want, name)
		}
	}
	for {
		e, err := r.Next()
		if err == io.EOF || err == nil && r.beyond(want) {
			return Entry{}, fmt.Errorf("archive has no %q: %w", path, fs.ErrNotExist)
		} else if err != nil {
			return Entry{}, err
		}
		if e.Path == strings.Join(want, "/") {
			return e, nil
		}
	}
}

// beyond tells whether the wanted entry cannot come anymore. Entries are
// sorted, so that the first name that differs decides.
func (r *Reader) beyond(want []string) bool {
	for d := 1; d <= r.cur.depth; d++ {
		if d > len(want) {
			return false // inside of what was wanted: only after a Next
		}
		if name := string(r.names[d].bytes()); name != want[d-1] {
			return name > want[d-1]
		}
	}
	return r.cur.typ != TypeDirectory && r.cur.depth < len(want)
}

// Cat writes the contents of the regular file at a path inside an archive to w.
// It reads as far as Find does, and the error is the same, or wraps
// fs.ErrInvalid if there is something else at path.
func Cat(w io.Writer, r io.Reader, path string) error {
	rd := NewReader(r)
	e, err := rd.Find(path)
	if err != nil {
		return err
	}
	if e.Type != TypeRegular {
		return fmt.Errorf("%q is a %s, not a regular file: %w", path, e.Type, fs.ErrInvalid)
	}
	_, err = rd.WriteTo(w)
	return err
}
