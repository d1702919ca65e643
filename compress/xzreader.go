package compress

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"
)

// An xzReader reads the .xz format: streams of blocks, each with an index of
// its blocks at the end. Filters other than LZMA2, which make programs a little
// smaller and which no version of Nix uses, are not supported.
// Source: "The .xz File Format", version 1.2.1.
type xzReader struct {
	lzma2 lzma2Reader
	r     *bufio.Reader
	// step does the next thing, which may be a chunk of output.
	step func() error

	flags   [2]byte // of the stream
	check   hash.Hash
	blocks  xzIndex // as they were
	header  int64   // size of the present block's header
	claimed [2]int64
	size    int64 // of the present block, decoded
}

// xzIndex is an index, or what is needed to compare one: its records may be many.
type xzIndex struct {
	records uint64
	sum     hash.Hash64
}

var crc64Table = crc64.MakeTable(crc64.ECMA)

func newXZIndex() xzIndex { return xzIndex{sum: crc64.New(crc64Table)} }

func (x *xzIndex) add(unpadded, size uint64) {
	x.records++
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], unpadded)
	binary.LittleEndian.PutUint64(b[8:], size)
	x.sum.Write(b[:])
}

func newXZReader(r *bufio.Reader) *xzReader {
	x := &xzReader{r: r}
	x.lzma2.r = r
	x.step = x.streamHeader
	return x
}

func (x *xzReader) Read(p []byte) (int, error) {
	z := &x.lzma2
	for z.given == z.done {
		if err := x.step(); err != nil {
			return 0, err
		}
	}
	n := copy(p, z.window[z.given:z.done])
	z.given += n
	return n, nil
}

// bad is corrupt data, of which kind.
func bad(what string) error { return fmt.Errorf("%w: %s", ErrCorrupt, what) }

func (x *xzReader) full(p []byte) error {
	_, err := io.ReadFull(x.r, p)
	return unexpected(err)
}

const (
	xzMagic     = "\xfd7zXZ\x00"
	xzMagicEnd  = "YZ"
	xzHeaderLen = 12 // also of the footer
)

// streamHeader begins the first stream.
func (x *xzReader) streamHeader() error {
	var head [xzHeaderLen]byte
	n, err := io.ReadFull(x.r, head[:])
	switch {
	case !bytes.HasPrefix([]byte(xzMagic), head[:min(n, len(xzMagic))]):
		return bad("not an xz stream")
	case err != nil:
		return unexpected(err)
	case crc32.ChecksumIEEE(head[6:8]) != binary.LittleEndian.Uint32(head[8:]):
		return bad("stream header")
	}
	x.flags = [2]byte(head[6:8])
	if x.check, err = newCheck(x.flags); err != nil {
		return err
	}
	x.blocks = newXZIndex()
	x.step = x.blockHeader
	return nil
}

func newCheck(flags [2]byte) (hash.Hash, error) {
	switch {
	case flags == [2]byte{0, 0}:
		return nil, nil
	case flags == [2]byte{0, 1}:
		return littleEndian{crc32.NewIEEE()}, nil
	case flags == [2]byte{0, 4}:
		return littleEndian{crc64.New(crc64Table)}, nil
	case flags == [2]byte{0, 10}:
		return sha256.New(), nil
	}
	return nil, bad("unknown kind of checksum")
}

// littleEndian is a checksum with its bytes the other way round.
type littleEndian struct{ hash.Hash }

func (l littleEndian) Sum(b []byte) []byte {
	sum := l.Hash.Sum(nil)
	for i := range sum {
		b = append(b, sum[len(sum)-1-i])
	}
	return b
}

// blockHeader begins a block, or finds that there is none any more.
func (x *xzReader) blockHeader() error {
	var buf [1024]byte
	if err := x.full(buf[:1]); err != nil {
		return err
	}
	if buf[0] == 0 {
		x.step = x.index
		return nil
	}
	n := 4 * (int(buf[0]) + 1)
	if err := x.full(buf[1:n]); err != nil {
		return err
	}
	head, sum := buf[:n-4], buf[n-4:n]
	if crc32.ChecksumIEEE(head) != binary.LittleEndian.Uint32(sum) {
		return bad("block header")
	}
	dictionary, err := x.parseBlockHeader(head[1:])
	if err != nil {
		return err
	}
	x.header, x.size = int64(n), 0
	if x.check != nil {
		x.check.Reset()
	}
	x.lzma2.begin(dictionary)
	x.step = x.chunk
	return nil
}

// Flags of blocks.
const (
	xzFilters     = 0x03 // how many, less one
	xzReserved    = 0x3c
	xzPacked      = 0x40 // the compressed size is given
	xzUnpacked    = 0x80 // the size is given
	xzFilterLZMA2 = 0x21
)

// parseBlockHeader takes a header from its flags on, and gives the size of the
// dictionary.
func (x *xzReader) parseBlockHeader(head []byte) (uint32, error) {
	flags, head := head[0], head[1:]
	if flags&xzReserved != 0 {
		return 0, bad("unknown flags of a block")
	}
	r := bytes.NewReader(head)
	x.claimed = [2]int64{-1, -1}
	for i, flag := range []byte{xzPacked, xzUnpacked} {
		if flags&flag != 0 {
			n, err := readVLI(r)
			if err != nil {
				return 0, bad("block header")
			}
			x.claimed[i] = int64(n)
		}
	}
	filter, err := readVLI(r)
	if err != nil {
		return 0, bad("block header")
	}
	if flags&xzFilters != 0 || filter != xzFilterLZMA2 {
		return 0, bad(fmt.Sprintf("filter %#x is not supported", filter))
	}
	length, err1 := r.ReadByte()
	property, err2 := r.ReadByte()
	if err1 != nil || err2 != nil || length != 1 || !zeros(head[len(head)-r.Len():]) {
		return 0, bad("block header")
	}
	return dictionarySize(property)
}

func dictionarySize(b byte) (uint32, error) {
	if b > 40 {
		return 0, bad("size of the dictionary")
	}
	size := (2 | uint64(b&1)) << (b/2 + 11)
	if size > MaxWindow {
		return 0, fmt.Errorf("%w: its dictionary has %d bytes", ErrMemory, size)
	}
	return uint32(size), nil
}

func zeros(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }

// chunk decodes a part of a block.
func (x *xzReader) chunk() error {
	z := &x.lzma2
	err := z.chunk()
	if err == io.EOF {
		x.step = x.blockEnd
		return nil
	}
	if err != nil {
		return err
	}
	out := z.window[z.given:z.done]
	x.size += int64(len(out))
	if x.check != nil {
		x.check.Write(out)
	}
	return nil
}

// blockEnd reads the padding of a block and its checksum.
func (x *xzReader) blockEnd() error {
	packed := x.lzma2.read
	if x.claimed[0] >= 0 && x.claimed[0] != packed || x.claimed[1] >= 0 && x.claimed[1] != x.size {
		return bad("size of a block")
	}
	if err := x.padding(packed); err != nil {
		return err
	}
	unpadded := uint64(x.header + packed)
	if x.check != nil {
		sum := make([]byte, x.check.Size())
		if err := x.full(sum); err != nil {
			return err
		}
		if !bytes.Equal(sum, x.check.Sum(nil)) {
			return bad("wrong checksum")
		}
		unpadded += uint64(len(sum))
	}
	x.blocks.add(unpadded, uint64(x.size))
	x.step = x.blockHeader
	return nil
}

// padding reads zeros after n bytes, up to a multiple of four.
func (x *xzReader) padding(n int64) error {
	var pad [3]byte
	p := pad[:-n&3]
	if err := x.full(p); err != nil {
		return err
	}
	if !zeros(p) {
		return bad("padding")
	}
	return nil
}
