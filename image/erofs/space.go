package erofs

import (
	"fmt"
	"io"
	"math"
	"slices"
)

// Output is where an image is written to, and empty at first. An *os.File is one.
type Output interface {
	io.WriterAt
	Truncate(size int64) error
}

const (
	// Segments grow, so that a small image has no large one.
	firstSegment = 16 << 10
	maxSegment   = 256 << 10
	// openBlocks is how many blocks of a segment are looked at for a place. More pack
	// better, and take longer.
	openBlocks = 32
	bufferSize = 1 << 20
)

// space is the image as bytes: whole blocks at the end for contents, and places in
// segments for metadata.
type space struct {
	out  Output
	end  int64 // of what is given away, a whole number of blocks
	data buffer
	meta segment
}

// buffer holds bytes of contents that are not written yet.
type buffer struct {
	at    int64
	bytes []byte
}

// segment is the one that metadata goes to. Earlier ones are written.
type segment struct {
	at    int64
	bytes []byte
	used  int // bytes in blocks that are open or full
	open  []place
}

// place is the free end of a block.
type place struct {
	from int // in the segment
	left int
}

// room is where the next bytes of contents can be put, at the end of the image; see grew.
func (s *space) room() []byte {
	if s.data.bytes == nil {
		s.data.bytes = make([]byte, 0, bufferSize)
	}
	if len(s.data.bytes) == 0 {
		s.data.at = s.end
	}
	return s.data.bytes[len(s.data.bytes):bufferSize]
}

// grew tells that so many bytes of room are contents. Whoever began a block fills it
// up before anybody asks for metadata.
func (s *space) grew(n int) error {
	s.data.bytes = s.data.bytes[:len(s.data.bytes)+n]
	s.end += int64(n)
	if len(s.data.bytes) == bufferSize {
		return s.flush()
	}
	return nil
}

// append puts bytes at the end of the image.
func (s *space) append(p []byte) error {
	for len(p) > 0 {
		n := copy(s.room(), p)
		if err := s.grew(n); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// fill ends the last block with zeros.
func (s *space) fill() error {
	if n := int(-s.end & (blockSize - 1)); n > 0 {
		return s.append(zeros[:n])
	}
	return nil
}

var zeros [blockSize]byte

// rewind takes back what was appended after the image ended at end.
func (s *space) rewind(end int64) {
	s.end = end
	if end < s.data.at {
		s.data.bytes = s.data.bytes[:0]
	} else if keep := int(end - s.data.at); keep < len(s.data.bytes) {
		s.data.bytes = s.data.bytes[:keep]
	}
}

// flush writes what the buffer has.
func (s *space) flush() error {
	if len(s.data.bytes) == 0 {
		return nil
	}
	_, err := s.out.WriteAt(s.data.bytes, s.data.at)
	s.data.bytes = s.data.bytes[:0]
	return err
}

// block gives the number of a block.
func block(at int64) (uint32, error) {
	if n := at >> blockBits; n < math.MaxUint32 {
		return uint32(n), nil
	}
	return 0, fmt.Errorf("%w: more than 16 TiB", ErrTooLarge)
}

// take gives n bytes within one block for metadata, at most a block: where they are
// in the image, and the bytes, which are zero.
func (s *space) take(n int) (int64, []byte, error) {
	m := &s.meta
	n = (n + slotSize - 1) &^ (slotSize - 1)
	best := -1
	for i, p := range m.open {
		if p.left >= n && (best < 0 || p.left < m.open[best].left) {
			best = i
		}
	}
	if best < 0 {
		var err error
		if best, err = s.openBlock(); err != nil {
			return 0, nil, err
		}
	}
	p := &m.open[best]
	from := p.from
	p.from, p.left = p.from+n, p.left-n
	if p.left == 0 {
		m.open = slices.Delete(m.open, best, best+1)
	}
	return m.at + int64(from), m.bytes[from : from+n], nil
}

// openBlock opens the next block of the segment, or of a new one.
func (s *space) openBlock() (int, error) {
	m := &s.meta
	if m.bytes == nil || m.used == len(m.bytes) {
		if err := s.nextSegment(); err != nil {
			return 0, err
		}
	}
	if len(m.open) == openBlocks {
		least := 0
		for i, p := range m.open {
			if p.left < m.open[least].left {
				least = i
			}
		}
		m.open = slices.Delete(m.open, least, least+1)
	}
	m.open = append(m.open, place{m.used, blockSize})
	m.used += blockSize
	return len(m.open) - 1, nil
}

func (s *space) nextSegment() error {
	m := &s.meta
	if len(m.bytes) > 0 {
		if _, err := s.out.WriteAt(m.bytes, m.at); err != nil {
			return err
		}
	}
	if size := min(max(2*len(m.bytes), firstSegment), maxSegment); size > len(m.bytes) {
		m.bytes = make([]byte, size)
	}
	clear(m.bytes)
	// The buffer ends where the segment begins, and begins anew after it.
	if err := s.flush(); err != nil {
		return err
	}
	m.at, m.used, m.open = s.end, 0, m.open[:0]
	s.end += int64(len(m.bytes))
	return nil
}

// patch changes bytes that were appended or taken before, wherever they are now.
func (s *space) patch(at int64, p []byte) error {
	n := int64(len(p))
	if m := &s.meta; at >= m.at && at+n <= m.at+int64(len(m.bytes)) {
		copy(m.bytes[at-m.at:], p)
		return nil
	}
	if d := &s.data; at+n > d.at && len(d.bytes) > 0 {
		if at < d.at { // across the buffer's beginning
			if err := s.flush(); err != nil {
				return err
			}
		} else if at+n <= d.at+int64(len(d.bytes)) {
			copy(d.bytes[at-d.at:], p)
			return nil
		}
	}
	_, err := s.out.WriteAt(p, at)
	return err
}

// finish writes everything that is left, and gives the size of the image.
func (s *space) finish() (int64, error) {
	if err := s.flush(); err != nil {
		return 0, err
	}
	if m := &s.meta; m.bytes != nil {
		if s.end == m.at+int64(len(m.bytes)) { // the last thing there is
			s.end = m.at + int64(m.used)
		}
		n := min(int64(len(m.bytes)), s.end-m.at)
		if _, err := s.out.WriteAt(m.bytes[:n], m.at); err != nil {
			return 0, err
		}
	}
	return s.end, s.out.Truncate(s.end)
}
