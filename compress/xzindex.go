package compress

import (
	"bytes"
	"encoding/binary"
	"hash"
	"hash/crc32"
	"io"
)

// readVLI reads a number of up to 63 bits, seven at a time.
func readVLI(r io.ByteReader) (uint64, error) {
	var n uint64
	for i := range 9 {
		b, err := r.ReadByte()
		if err != nil {
			return 0, unexpected(err)
		}
		n |= uint64(b&0x7f) << (7 * i)
		if b&0x80 == 0 {
			if b == 0 && i > 0 {
				return 0, bad("a number is longer than it has to be")
			}
			return n, nil
		}
	}
	return 0, bad("a number is too large")
}

// A summedReader counts and sums what is read through it.
type summedReader struct {
	r   io.ByteReader
	n   int64
	sum hash.Hash32
}

func (s *summedReader) ReadByte() (byte, error) {
	b, err := s.r.ReadByte()
	if err == nil {
		s.n++
		s.sum.Write([]byte{b})
	}
	return b, err
}

// index reads the index of a stream, whose first byte is gone, and its footer. It
// must tell of the blocks that there were.
func (x *xzReader) index() error {
	s := &summedReader{r: x.r, n: 1, sum: crc32.NewIEEE()}
	s.sum.Write([]byte{0})
	records, err := readVLI(s)
	if err != nil {
		return err
	}
	if records != x.blocks.records {
		return bad("index")
	}
	found := newXZIndex()
	for range records {
		unpadded, err := readVLI(s)
		if err != nil {
			return err
		}
		size, err := readVLI(s)
		if err != nil {
			return err
		}
		found.add(unpadded, size)
	}
	for s.n%4 != 0 {
		b, err := s.ReadByte()
		if err != nil {
			return unexpected(err)
		}
		if b != 0 {
			return bad("index")
		}
	}
	var sum [4]byte
	if err := x.full(sum[:]); err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(sum[:]) != s.sum.Sum32() || found.sum.Sum64() != x.blocks.sum.Sum64() {
		return bad("index")
	}
	return x.footer(s.n + int64(len(sum)))
}

// footer reads what ends a stream with an index of so many bytes.
func (x *xzReader) footer(index int64) error {
	var foot [xzHeaderLen]byte
	if err := x.full(foot[:]); err != nil {
		return err
	}
	if string(foot[10:]) != xzMagicEnd || crc32.ChecksumIEEE(foot[4:10]) != binary.LittleEndian.Uint32(foot[:]) ||
		[2]byte(foot[8:10]) != x.flags || 4*(int64(binary.LittleEndian.Uint32(foot[4:]))+1) != index {
		return bad("stream footer")
	}
	x.step = x.streamEnd
	return nil
}

// streamEnd looks whether there is another stream, after zeros in fours.
func (x *xzReader) streamEnd() error {
	for {
		next, err := x.r.Peek(4)
		switch {
		case len(next) == 0:
			return err // io.EOF: that was all
		case len(next) == 4 && zeros(next):
			_, _ = x.r.Discard(4)
		case !bytes.HasPrefix([]byte(xzMagic), next):
			return ErrTrailing
		case err != nil:
			return unexpected(err)
		default:
			x.step = x.streamHeader
			return nil
		}
	}
}
