package debian

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// maxLine bounds a line of an index; the longest real ones, lists of
// dependencies, have some ten thousand bytes.
const maxLine = 1 << 20

// Package is a stanza of a package index or the control file of a .deb.
type Package struct {
	Name, Version, Arch string
	Filename            string // relative to the archive; only in an index
	SHA256              string // hex, of the .deb; only in an index
	Size                uint64 // bytes of the .deb; only in an index
	InstalledSize       uint64 // KiB, as its maker estimates

	// Depends has Pre-Depends and Depends without versions: all are needed, and
	// of each any one of the alternatives.
	Depends  [][]string
	Provides []string
}

// ParseStanzas reads stanzas in the form of the control files of Debian Policy,
// chapter 5, keeping the fields of Package.
func ParseStanzas(r io.Reader) ([]*Package, error) {
	var (
		all  []*Package
		cur  = new(Package)
		name string // of the field that is being read
		text []byte // its value so far
	)
	endField := func() error {
		err := cur.set(name, strings.TrimSpace(string(text)))
		name, text = "", text[:0]
		return err
	}
	endStanza := func() {
		if cur.Name != "" {
			all = append(all, cur)
		}
		cur = new(Package)
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	for n := 1; lines.Scan(); n++ {
		line := bytes.TrimRight(lines.Bytes(), "\r")
		if len(line) > 0 && (line[0] == ' ' || line[0] == '\t') {
			text = append(append(text, ' '), bytes.TrimSpace(line)...)
			continue
		}
		if err := endField(); err != nil {
			return nil, fmt.Errorf("package stanzas, before line %d: %w", n, err)
		}
		if len(line) == 0 {
			endStanza()
			continue
		}
		key, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return nil, fmt.Errorf("package stanzas, line %d: no colon", n)
		}
		name, text = strings.ToLower(string(key)), append(text, value...)
	}
	if err := errors.Join(lines.Err(), endField()); err != nil {
		return nil, fmt.Errorf("package stanzas: %w", err)
	}
	endStanza()
	return all, nil
}

func (p *Package) set(field, v string) (err error) {
	switch field {
	case "package":
		p.Name = v
	case "version":
		p.Version = v
	case "architecture":
		p.Arch = v
	case "filename":
		p.Filename = v
	case "sha256":
		p.SHA256 = v
	case "size":
		p.Size, err = strconv.ParseUint(v, 10, 64)
	case "installed-size":
		p.InstalledSize, err = strconv.ParseUint(v, 10, 64)
	case "pre-depends", "depends":
		p.Depends = append(p.Depends, parseRelation(v)...)
	case "provides":
		for _, alternatives := range parseRelation(v) {
			p.Provides = append(p.Provides, alternatives...)
		}
	}
	if err != nil {
		return fmt.Errorf("package %q: field %s: %w", p.Name, field, err)
	}
	return nil
}

// parseRelation splits "a (>= 1) | b:any, c" into [[a b] [c]].
func parseRelation(s string) [][]string {
	var all [][]string
	for and := range strings.SplitSeq(s, ",") {
		var alternatives []string
		for or := range strings.SplitSeq(and, "|") {
			name := strings.TrimSpace(or)
			if i := strings.IndexAny(name, " (<[:"); i >= 0 {
				name = name[:i]
			}
			if name != "" {
				alternatives = append(alternatives, name)
			}
		}
		if alternatives != nil {
			all = append(all, alternatives)
		}
	}
	return all
}
