package compress

import (
	"bufio"
	"io"
)

// maxChunk is the most that a chunk of LZMA2 decodes to, in bytes.
const maxChunk = 2 << 20

// An lzma2Reader decodes LZMA2: chunks, each compressed or not, with the window
// in common. It reads no further than their end.
type lzma2Reader struct {
	r       *bufio.Reader
	read    int64 // bytes of r
	decoder lzmaDecoder

	// window is a piece of what came out; done is its end. What is before it was
	// given out up to given. start is where the dictionary was last reset, counted
	// in the window, before which it may lie.
	window             []byte
	given, done, start int

	needDictionary, needProperties bool
}

// begin starts with another stream of chunks.
func (z *lzma2Reader) begin(dictionary uint32) {
	z.decoder.dictionary = dictionary
	z.needDictionary, z.needProperties = true, true
	z.read = 0
}

func (z *lzma2Reader) full(p []byte) error {
	n, err := io.ReadFull(z.r, p)
	z.read += int64(n)
	return unexpected(err)
}

// unexpected is for an end where there may be none.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// room makes the window long enough for n bytes after done. It grows with what
// comes, up to half more than the dictionary, and then what is too old for that
// makes room.
func (z *lzma2Reader) room(n int) {
	size := len(z.window)
	if z.done+n <= size {
		return
	}
	dictionary := int(z.decoder.dictionary)
	size = min(max(2*size, z.done+n), max(size, dictionary+dictionary/2+maxChunk))
	drop := 0
	if z.done+n > size {
		drop = max(0, z.done-dictionary)
	}
	to := z.window
	if size > len(to) {
		to = make([]byte, size)
	}
	copy(to, z.window[drop:z.done])
	z.window, z.done, z.given, z.start = to, z.done-drop, z.given-drop, z.start-drop
	if z.start < 0 {
		z.start = z.start&15 - 16 // no more than that it is gone, and the position, counts
	}
}

// Control bytes of chunks. From controlLZMA on there is compressed data, and the
// lowest bits belong to its size.
const (
	controlEnd        = 0x00
	controlPlainReset = 0x01
	controlPlain      = 0x02
	controlLZMA       = 0x80
	controlState      = 0xa0 // the state is reset
	controlProperties = 0xc0 // that too, and properties follow
	controlDictionary = 0xe0 // all that, and the dictionary is reset
)

// chunk decodes the next chunk. The error is io.EOF after the last one.
// Everything before must have been given out.
func (z *lzma2Reader) chunk() error {
	var head [6]byte
	if err := z.full(head[:1]); err != nil {
		return err
	}
	control := head[0]
	switch {
	case control == controlEnd:
		return io.EOF
	case control > controlPlain && control < controlLZMA:
		return ErrCorrupt
	case control == controlPlainReset || control >= controlDictionary:
		z.start = z.done
		z.needDictionary, z.needProperties = false, true
	case z.needDictionary:
		return ErrCorrupt
	}
	if control < controlLZMA {
		return z.plain(head[1:3])
	}
	rest := head[1:5]
	if control >= controlProperties {
		rest = head[1:6]
	}
	if err := z.full(rest); err != nil {
		return err
	}
	switch {
	case control >= controlProperties:
		if !z.decoder.setProperties(rest[4]) {
			return ErrCorrupt
		}
		z.needProperties = false
	case z.needProperties:
		return ErrCorrupt
	case control >= controlState:
		z.decoder.reset()
	}
	return z.compressed(int(control&0x1f)<<16+size16(rest), size16(rest[2:]))
}

// size16 reads a size, of which one less is stored.
func size16(b []byte) int { return int(b[0])<<8 + int(b[1]) + 1 }

func (z *lzma2Reader) plain(head []byte) error {
	if err := z.full(head); err != nil {
		return err
	}
	n := size16(head)
	z.room(n)
	if err := z.full(z.window[z.done : z.done+n]); err != nil {
		return err
	}
	z.done += n
	return nil
}

func (z *lzma2Reader) compressed(n, size int) error {
	if err := z.full(z.decoder.in[:size]); err != nil {
		return err
	}
	z.room(n)
	if !z.decoder.decode(z.window[:z.done+n], z.start, z.done, size) {
		return ErrCorrupt
	}
	z.done += n
	return nil
}
