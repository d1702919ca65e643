package refscan

import (
	"fmt"
	"hash"
)

// Modulo hashes a stream as if a hash part, that of the object's own path, were
// 32 zero bytes wherever it occurs. The content address of an object that
// refers to itself is such a hash, since its path depends on it.
//
//	m, err := refscan.NewModulo(sha256.New(), selfHashPart)
//	nar.Dump(ctx, m, path)
//	digest := m.Sum()
type Modulo struct {
	h         hash.Hash
	r         *Rewriter
	positions []int64
}

// NewModulo returns a Modulo that feeds h.
func NewModulo(h hash.Hash, self string) (*Modulo, error) {
	m := &Modulo{h: h, r: newRewriter(h)}
	m.r.found = func(offset int64) { m.positions = append(m.positions, offset) }
	return m, m.r.add(self, [Len]byte{})
}

// Write never fails.
func (m *Modulo) Write(p []byte) (int, error) { return m.r.Write(p) }

// Sum ends the stream and returns its hash the way Nix 2.17 and later compute
// it. Either Sum or SumWithPositions may be called, once.
func (m *Modulo) Sum() []byte {
	m.r.Close()
	return m.h.Sum(nil)
}

// SumWithPositions is Sum as Nix up to 2.16 computed it, and as it was meant:
// after the stream, "|" and the decimal offset of each occurrence is hashed, so
// that an occurrence and 32 zero bytes are not the same. Since upstream's
// commit 3ebe1341ab no offsets are recorded anymore, and content addresses of
// objects that refer to themselves differ between the two.
func (m *Modulo) SumWithPositions() []byte {
	m.r.Close()
	for _, at := range m.positions {
		fmt.Fprintf(m.h, "|%d", at)
	}
	return m.h.Sum(nil)
}

// Size is the number of bytes that were written, and hashed, positions not
// counted. It is exact after Sum.
func (m *Modulo) Size() int64 { return m.r.passed }
