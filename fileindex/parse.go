package fileindex

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/trust"
)

// Signed is an index of which the header was read, and that nobody has vouched for yet.
type Signed struct {
	Header
	Signatures []store.Signature

	frames   int
	contents int64  // bytes of the body when it is decompressed
	body     []byte // the hash of which is in the text
	text     []byte // what is signed
	data     []byte // all
}

// Parse reads the header of an index. name is what errors call it. The index keeps using data.
func Parse(dir storepath.Dir, name string, data []byte) (*Signed, error) {
	s, err := parse(dir, data)
	if err != nil {
		return nil, fmt.Errorf("'%s': %w", name, err)
	}
	return s, nil
}

func parse(dir storepath.Dir, data []byte) (*Signed, error) {
	bad := func(what string) (*Signed, error) { return nil, fmt.Errorf("%w: %s", ErrFormat, what) }
	if len(data) > MaxSize {
		return bad("too long")
	}
	end := bytes.Index(data[:min(len(data), maxHeader)], []byte("\n\n"))
	if end < 0 {
		return bad("no end of the header")
	}
	lines := strings.Split(string(data[:end]), "\n")
	if lines[0] != magic || len(lines) < 1+len(fields) || len(lines) > 1+len(fields)+maxSignatures {
		return bad("not an index of version 1")
	}
	s := &Signed{data: data, body: data[end+2:]}
	if err := s.parseFields(dir, lines[1:1+len(fields)]); err != nil {
		return nil, err
	}
	if err := s.checkSize(); err != nil {
		return nil, err
	}
	// It is written in one way only, so that it is enough to compare.
	if s.text = s.fingerprint(dir); !bytes.HasPrefix(data, s.text) {
		return bad("the body has another hash, or the header is written in another way")
	}
	for _, line := range lines[1+len(fields):] {
		text, ok := strings.CutPrefix(line, sigField)
		if !ok {
			return bad("a line of the header is no signature")
		}
		s.Signatures = append(s.Signatures, store.Signature(text))
	}
	return s, nil
}

func (s *Signed) parseFields(dir storepath.Dir, lines []string) error {
	values := make([]string, len(fields))
	for i, name := range fields {
		var ok bool
		if values[i], ok = strings.CutPrefix(lines[i], name+": "); !ok {
			return fmt.Errorf("%w: line %d is not '%s'", ErrFormat, i+2, name)
		}
	}
	p := fieldParser{}
	var err error
	if s.Path, err = dir.Parse(values[0]); err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	s.URL, s.Compression = values[1], values[2]
	s.FileHash, s.FileSize = p.hash(values[3]), p.number(values[4])
	s.NarHash, s.NarSize = p.hash(values[5]), p.number(values[6])
	s.frames, s.contents = int(min(p.number(values[7]), 1<<31)), int64(min(p.number(values[8]), 1<<62))
	p.hash(values[9]) // compared with the rest
	if p.err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, p.err)
	}
	return nil
}

// fieldParser keeps the first error.
type fieldParser struct{ err error }

func (p *fieldParser) hash(text string) nixhash.Hash {
	h, err := nixhash.ParseAny(text, nixhash.SHA256)
	p.err = errors.Join(p.err, err)
	return h
}

func (p *fieldParser) number(text string) uint64 {
	n, err := strconv.ParseUint(text, 10, 64)
	p.err = errors.Join(p.err, err)
	return n
}

// VerifiedBy tells whether one of keys has signed the index.
func (s *Signed) VerifiedBy(keys trust.Keys) bool {
	for _, sig := range s.Signatures {
		if keys.Verify(string(s.text), sig) {
			return true
		}
	}
	return false
}

// Sign adds signatures of keys, and gives the index as it is written then. added tells whether it lacked some.
func (s *Signed) Sign(keys ...trust.SecretKey) (data []byte, added bool) {
	sigs := slices.Clone(s.Signatures)
	for _, k := range keys {
		if sig := k.Sign(string(s.text)); !slices.Contains(sigs, sig) {
			sigs, added = append(sigs, sig), true
		}
	}
	if !added {
		return s.data, false
	}
	return withSignatures(s.text, sigs, s.body), true
}

// Same tells whether another index says the same, so that signatures of the one are good for the other.
func (s *Signed) Same(o *Signed) bool { return bytes.Equal(s.text, o.text) }

// Encoded is the index as it was read. Nobody may change it.
func (s *Signed) Encoded() []byte { return s.data }

// Decode decompresses the index and looks at everything in it.
func (s *Signed) Decode() (*Index, error) {
	x, err := s.decode()
	if err != nil {
		return nil, fmt.Errorf("file index of '%s': %w", s.Path, err)
	}
	return x, nil
}

func (s *Signed) decode() (*Index, error) {
	plain, err := s.inflate()
	if err != nil {
		return nil, err
	}
	frames := 8 * s.frames
	treeSize, err := fusefs.EncodedSize(plain)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if treeSize > len(plain) || frames > len(plain)-treeSize {
		return nil, fmt.Errorf("%w: it ends too early", ErrFormat)
	}
	tree, err := fusefs.DecodeTree(plain[:treeSize:treeSize])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	x := &Index{Header: s.Header}
	if x.Contents, err = newContents(tree, plain[treeSize:len(plain)-frames]); err != nil {
		return nil, err
	}
	x.Frames = make([]compress.Frame, s.frames)
	for i := range x.Frames {
		b := plain[len(plain)-frames+8*i:]
		x.Frames[i] = compress.Frame{Size: binary.LittleEndian.Uint32(b), Plain: binary.LittleEndian.Uint32(b[4:])}
	}
	return x, x.check()
}

// inflate decompresses the body, which must have as many bytes as it says. Memory grows with what comes.
func (s *Signed) inflate() ([]byte, error) {
	r, err := compress.NewReader(context.Background(), compress.Zstd, bytes.NewReader(s.body))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var b bytes.Buffer
	b.Grow(int(min(s.contents, int64(len(s.body))*8)))
	n, err := io.Copy(&b, io.LimitReader(r, s.contents+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if n != s.contents {
		return nil, fmt.Errorf("%w: its contents have not the %d bytes that it says", ErrFormat, s.contents)
	}
	return b.Bytes(), nil
}
