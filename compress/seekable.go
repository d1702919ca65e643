package compress

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Frame is a piece of a compressed stream that can be decompressed without the others.
type Frame struct {
	Size  uint32 // bytes when compressed
	Plain uint32 // bytes of what is in it
}

// maxPlainFrame is how much goes into a frame that nobody cuts, in bytes.
const maxPlainFrame = 1 << 20

// Seekable writes zstd in the seekable format: frames that can be decompressed each by itself, and
// behind them a table of their sizes in a frame that other readers skip. It is for one goroutine.
//
// Source of the format: contrib/seekable_format/zstd_seekable_compression_format.md of facebook/zstd.
type Seekable struct {
	sink     *sink
	encoder  *zstd.Encoder
	parallel int
	buf      []byte  // of the frame that is being filled, and perhaps beyond its end
	start    int64   // where that begins in what is compressed
	cuts     []int64 // that are yet to be reached
	pending  []chan []byte
	plain    []uint32 // sizes of the pending ones
	frames   []Frame
	closed   bool
	err      error // sticky
}

// NewSeekable compresses to w. It fails as NewWriter does, and what it says about the end of a writer holds
// here too.
func NewSeekable(ctx context.Context, w io.Writer, o Options) (*Seekable, error) {
	kind := encoders[Zstd]
	if o.Level == DefaultLevel {
		o.Level = kind.otherwise
	}
	if o.Level < kind.lowest || o.Level > kind.highest {
		err := fmt.Errorf("%w: %d is not between %d and %d", ErrLevel, o.Level, kind.lowest, kind.highest)
		return nil, &Error{Method: Zstd, Op: "compress", Err: err}
	}
	e, err := frameEncoder(zstd.EncoderLevelFromZstd(o.Level))
	if err != nil {
		return nil, &Error{Method: Zstd, Op: "compress", Err: err}
	}
	s := &Seekable{sink: &sink{ctx: ctx, w: w}, encoder: e, parallel: 1}
	if o.Parallel {
		s.parallel = runtime.GOMAXPROCS(0)
	}
	return s, nil
}

// frameEncoders are shared by all, by level; they keep nothing between two frames.
var frameEncoders struct {
	mu sync.Mutex
	of map[zstd.EncoderLevel]*zstd.Encoder
}

func frameEncoder(level zstd.EncoderLevel) (*zstd.Encoder, error) {
	f := &frameEncoders
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.of[level]; e != nil {
		return e, nil
	}
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level))
	if err != nil {
		return nil, err
	}
	if f.of == nil {
		f.of = map[zstd.EncoderLevel]*zstd.Encoder{}
	}
	f.of[level] = e
	return e, nil
}

// Cut makes a new frame begin at an offset of what is compressed, if that has not gone out yet: it may have
// been written already, up to maxPlainFrame bytes ago. Offsets rise.
func (s *Seekable) Cut(off int64) {
	if off > s.start {
		s.cuts = append(s.cuts, off)
	}
}

// Write implements io.Writer.
func (s *Seekable) Write(p []byte) (int, error) {
	if s.err == nil && s.closed {
		s.err = ErrClosed
	}
	for done := 0; s.err == nil; {
		if s.err = s.emit(); s.err != nil {
			break
		}
		n := min(len(p)-done, maxPlainFrame-len(s.buf))
		if n == 0 {
			return done, nil
		}
		s.buf = append(s.buf, p[done:done+n]...)
		done += n
	}
	return 0, s.err
}

// emit compresses what is complete. A frame without a cut is kept until it is full.
func (s *Seekable) emit() error {
	end := s.start + int64(len(s.buf))
	for len(s.cuts) > 0 && s.cuts[0] <= end {
		if size := s.cuts[0] - s.start; size > 0 {
			if err := s.frame(int(size)); err != nil {
				return err
			}
		}
		s.cuts = s.cuts[1:]
	}
	if len(s.buf) == maxPlainFrame {
		return s.frame(len(s.buf))
	}
	return nil
}

// frame compresses the first n bytes that are waiting.
func (s *Seekable) frame(n int) error {
	if s.parallel == 1 {
		s.plain = append(s.plain, uint32(n))
		err := s.put(s.encoder.EncodeAll(s.buf[:n], nil))
		s.drop(n)
		return err
	}
	data := append([]byte(nil), s.buf[:n]...)
	s.drop(n)
	done := make(chan []byte, 1)
	go func() { done <- s.encoder.EncodeAll(data, nil) }()
	s.plain = append(s.plain, uint32(n))
	if s.pending = append(s.pending, done); len(s.pending) < 2*s.parallel {
		return nil
	}
	return s.next()
}

func (s *Seekable) drop(n int) {
	s.buf = s.buf[:copy(s.buf, s.buf[n:])]
	s.start += int64(n)
}

// next waits for the first of the pending frames.
func (s *Seekable) next() error {
	done := s.pending[0]
	s.pending = s.pending[1:]
	return s.put(<-done)
}

// put writes a compressed frame.
func (s *Seekable) put(data []byte) error {
	s.frames = append(s.frames, Frame{Size: uint32(len(data)), Plain: s.plain[0]})
	s.plain = s.plain[1:]
	_, err := s.sink.Write(data)
	return err
}

// Close writes what is left, and the table.
func (s *Seekable) Close() error {
	if s.closed {
		return s.err
	}
	s.closed = true
	if s.err == nil {
		s.err = s.emit()
	}
	if s.err == nil && len(s.buf) > 0 {
		s.err = s.frame(len(s.buf))
	}
	for len(s.pending) > 0 { // also after an error: they have goroutines
		if err := s.next(); s.err == nil {
			s.err = err
		}
	}
	if s.err == nil {
		_, s.err = s.sink.Write(seekTable(s.frames))
	}
	return s.err
}

// Frames are all, once the writer was closed without an error.
func (s *Seekable) Frames() []Frame { return s.frames }

// Magic numbers of a table.
const (
	skippableMagic = 0x184D2A5E
	seekTableMagic = 0x8F92EAB1
)

// seekTable is the table of frames, in its frame.
func seekTable(frames []Frame) []byte {
	b := binary.LittleEndian.AppendUint32(nil, skippableMagic)
	b = binary.LittleEndian.AppendUint32(b, uint32(8*len(frames)+9))
	for _, f := range frames {
		b = binary.LittleEndian.AppendUint32(b, f.Size)
		b = binary.LittleEndian.AppendUint32(b, f.Plain)
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(frames)))
	b = append(b, 0) // no checksums: frames have their own
	return binary.LittleEndian.AppendUint32(b, seekTableMagic)
}

// SeekTableFooter is how many bytes at the end of a file tell how long its table of frames is.
const SeekTableFooter = 9

// SeekTableSize tells how many bytes at the end of a file its table of frames takes, of the last SeekTableFooter of them. It is
// false if there is no table, or one with checksums, which nobody writes.
func SeekTableSize(end []byte) (size int64, ok bool) {
	if len(end) != SeekTableFooter || binary.LittleEndian.Uint32(end[5:]) != seekTableMagic || end[4] != 0 {
		return 0, false
	}
	return 8 + 8*int64(binary.LittleEndian.Uint32(end)) + SeekTableFooter, true
}

// ParseSeekTable reads a table of frames, from the beginning of its own frame to the end of the file. What it says has not been
// compared with anything.
func ParseSeekTable(table []byte) ([]Frame, error) {
	bad := &Error{Method: Zstd, Op: "decompress", Err: errors.New("malformed table of frames")}
	if len(table) < 8+SeekTableFooter {
		return nil, bad
	}
	size, ok := SeekTableSize(table[len(table)-SeekTableFooter:])
	if !ok || size != int64(len(table)) || binary.LittleEndian.Uint32(table) != skippableMagic || int64(binary.LittleEndian.Uint32(table[4:])) != size-8 {
		return nil, bad
	}
	frames := make([]Frame, (size-8-SeekTableFooter)/8)
	for i := range frames {
		b := table[8+8*i:]
		frames[i] = Frame{Size: binary.LittleEndian.Uint32(b), Plain: binary.LittleEndian.Uint32(b[4:])}
	}
	return frames, nil
}
