package narinfo

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// noDeriver is what old caches write for an object whose deriver they do not know.
const noDeriver = "unknown-deriver"

// Parse reads a narinfo. file is its name, for errors, which are *[SyntaxError]s.
// Nothing of what it says has been checked against anything; that the path is
// the one that was asked for is up to the caller.
//
// It is stricter than Nix in that no known field but Sig may come twice, that
// lines end in a bare newline, and that hashes are SHA-256.
func Parse(dir storepath.Dir, file string, text []byte) (*NarInfo, error) {
	p := &parser{dir: dir, file: file, info: &NarInfo{}, seen: map[string]bool{}}
	if len(text) > MaxSize {
		return nil, p.fault(fmt.Sprintf("has more than %d bytes", MaxSize), nil)
	}
	for rest := string(text); rest != ""; {
		p.line++
		line, after, ended := strings.Cut(rest, "\n")
		if !ended {
			return nil, p.fault("expecting '\\n'", nil)
		}
		if err := p.take(line); err != nil {
			return nil, err
		}
		rest = after
	}
	p.line = 0
	return p.finish()
}

type parser struct {
	dir  storepath.Dir
	file string
	line int
	info *NarInfo
	seen map[string]bool // fields that may come once
}

func (p *parser) fault(why string, err error) error {
	return &SyntaxError{File: p.file, Line: p.line, Why: why, Err: err}
}

// fields are the readers of the known fields.
var fields = map[string]func(p *parser, value string) error{
	"StorePath":   (*parser).storePath,
	"URL":         (*parser).url,
	"Compression": (*parser).compression,
	"FileHash":    func(p *parser, v string) error { return p.hash(&p.info.FileHash, v) },
	"FileSize":    func(p *parser, v string) error { return p.size(&p.info.FileSize, v) },
	"NarHash":     func(p *parser, v string) error { return p.hash(&p.info.NarHash, v) },
	"NarSize":     func(p *parser, v string) error { return p.size(&p.info.NarSize, v) },
	"References":  (*parser).references,
	"Deriver":     (*parser).deriver,
	"Sig":         (*parser).signature,
	"CA":          (*parser).contentAddress,
}

// take reads one line.
func (p *parser) take(line string) error {
	if strings.HasSuffix(line, "\r") {
		return p.fault("line ends in a carriage return", nil)
	}
	name, value, ok := strings.Cut(line, ":")
	if !ok {
		return p.fault("expecting ':'", nil)
	}
	read, known := fields[name]
	if !known {
		return nil
	}
	value, ok = strings.CutPrefix(value, " ")
	if !ok {
		return p.fault("expecting ' ' after '"+name+":'", nil)
	}
	if p.seen[name] {
		return p.fault("extra "+name, nil)
	}
	p.seen[name] = name != "Sig"
	if err := read(p, value); err != nil {
		return p.fault("bad "+name, err)
	}
	return nil
}

func (p *parser) storePath(v string) (err error) {
	p.info.Path, err = p.dir.Parse(v)
	return err
}

func (p *parser) url(v string) error {
	p.info.URL = v
	return checkPlain(v)
}

func (p *parser) compression(v string) error {
	p.info.Compression = v
	return checkPlain(v)
}

func (p *parser) hash(to *nixhash.Hash, v string) error {
	h, err := nixhash.Parse(v)
	if err != nil {
		return err
	}
	if h.Algorithm() != nixhash.SHA256 {
		return fmt.Errorf("%w: hash '%s' should have type 'sha256'", nixhash.ErrFormat, v)
	}
	*to = h
	return nil
}

func (p *parser) size(to *uint64, v string) (err error) {
	*to, err = strconv.ParseUint(v, 10, 64)
	if err != nil {
		return fmt.Errorf("'%.40s' is not a size in bytes", v)
	}
	return nil
}

func (p *parser) references(v string) error {
	for base := range strings.FieldsFuncSeq(v, func(r rune) bool { return r == ' ' }) {
		r, err := storepath.ParseBase(base)
		if err != nil {
			return err
		}
		p.info.References = append(p.info.References, r)
	}
	p.info.References = storepath.SortUnique(p.info.References)
	return nil
}

func (p *parser) deriver(v string) (err error) {
	if v != noDeriver {
		p.info.Deriver, err = storepath.ParseBase(v)
	}
	return err
}

func (p *parser) signature(v string) error {
	s, err := store.ParseSignature(v)
	p.info.Signatures = append(p.info.Signatures, s)
	return err
}

func (p *parser) contentAddress(v string) (err error) {
	p.info.CA, err = storepath.ParseContentAddress(v)
	return err
}

// finish looks at the whole.
func (p *parser) finish() (*NarInfo, error) {
	i := p.info
	switch {
	case i.Path.IsZero():
		return nil, p.fault("StorePath missing", nil)
	case i.NarHash.IsZero():
		return nil, p.fault("NarHash missing", nil)
	case i.URL == "":
		return nil, p.fault("URL missing", nil)
	case i.NarSize == 0:
		return nil, p.fault("NarSize missing or zero", nil)
	}
	if i.Compression == "" {
		i.Compression = DefaultCompression
	}
	i.Signatures = store.SortSignatures(i.Signatures)
	return i, nil
}

// checkPlain refuses what does not belong in a value that is used elsewhere.
func checkPlain(v string) error {
	if !utf8.ValidString(v) {
		return fmt.Errorf("%.100q is not UTF-8", v)
	}
	for i := range len(v) {
		if v[i] <= ' ' || v[i] == 0x7f {
			return fmt.Errorf("%.100q has a blank or control character", v)
		}
	}
	return nil
}
