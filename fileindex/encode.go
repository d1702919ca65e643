package fileindex

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/trust"
)

// magic is the first line. As it is signed, no signature of anything else is one of an index.
const magic = "strata-file-index-1"

// Limits of an index.
const (
	// MaxSize bounds the bytes of an encoded index.
	MaxSize = 512 << 20
	// maxHeader bounds those before the body.
	maxHeader = 64 << 10
	// maxContents bounds the body when it is decompressed; it must not grow by more than maxGrowth, but for
	// the first maxSmall bytes.
	maxContents = 1 << 30
	maxGrowth   = 256
	maxSmall    = 1 << 20
	// maxSignatures is more than anybody makes.
	maxSignatures = 32
)

// Encode prints an index, signed by keys. The same one is printed the same.
func (x *Index) Encode(dir storepath.Dir, keys ...trust.SecretKey) ([]byte, error) {
	if err := x.check(); err != nil {
		return nil, err
	}
	plain := x.body()
	body, err := squeeze(plain)
	if err != nil {
		return nil, err
	}
	s := &Signed{Header: x.Header, frames: len(x.Frames), contents: int64(len(plain)), body: body}
	if err := s.checkSize(); err != nil {
		return nil, err
	}
	s.text = s.fingerprint(dir)
	var sigs []store.Signature
	for _, k := range keys {
		sigs = append(sigs, k.Sign(string(s.text)))
	}
	data := withSignatures(s.text, sigs, body)
	// What we could not read ourselves must not get out.
	if _, err := Parse(dir, x.Path.HashPart()+Suffix, data); err != nil {
		return nil, err
	}
	return data, nil
}

// withSignatures puts an index together.
func withSignatures(text []byte, sigs []store.Signature, body []byte) []byte {
	data := slices.Clone(text)
	for _, sig := range store.SortSignatures(sigs) {
		data = append(data, sigField+string(sig)+"\n"...)
	}
	return append(append(data, '\n'), body...)
}

// body is what is compressed.
func (x *Index) body() []byte {
	c := x.Contents
	b := make([]byte, 0, len(c.tree.Encoded())+len(c.digests)+8*len(x.Frames))
	b = append(append(b, c.tree.Encoded()...), c.digests...)
	for _, f := range x.Frames {
		b = binary.LittleEndian.AppendUint32(b, f.Size)
		b = binary.LittleEndian.AppendUint32(b, f.Plain)
	}
	return b
}

func squeeze(plain []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := compress.NewWriter(context.Background(), compress.Zstd, &b, compress.Options{Level: compress.DefaultLevel})
	if err != nil {
		return nil, err
	}
	_, err = w.Write(plain)
	err = errors.Join(err, w.Close())
	return b.Bytes(), err
}

// sigField begins the line of a signature.
const sigField = "Sig: "

// fields are the other lines of a header, in their order.
var fields = []string{"StorePath", "URL", "Compression", "FileHash", "FileSize", "NarHash", "NarSize", "Frames", "Contents", "Body"}

// fingerprint is what is signed: the header up to its signatures.
func (s *Signed) fingerprint(dir storepath.Dir) []byte {
	sum := sha256.Sum256(s.body)
	bodyHash, _ := nixhash.New(nixhash.SHA256, sum[:])
	values := []string{
		dir.Print(s.Path), s.URL, s.Compression, s.FileHash.Text(nixhash.Nix32), strconv.FormatUint(s.FileSize, 10),
		s.NarHash.Text(nixhash.Nix32), strconv.FormatUint(s.NarSize, 10),
		strconv.Itoa(s.frames), strconv.FormatInt(s.contents, 10), bodyHash.Text(nixhash.Nix32),
	}
	b := append([]byte(magic), '\n')
	for i, v := range values {
		b = append(append(append(append(b, fields[i]...), ": "...), v...), '\n')
	}
	return b
}

// checkSize finds sizes that Parse would not take.
func (s *Signed) checkSize() error {
	switch {
	case s.contents > maxContents, s.contents > maxSmall && s.contents/maxGrowth > int64(len(s.body)):
		return fmt.Errorf("%w: it has %d bytes of contents in %d", ErrFormat, s.contents, len(s.body))
	case len(s.body) > MaxSize-maxHeader:
		return fmt.Errorf("%w: it has more than %d bytes", ErrFormat, MaxSize)
	case s.frames > math.MaxInt32:
		return fmt.Errorf("%w: it has %d frames", ErrFormat, s.frames)
	}
	return nil
}
