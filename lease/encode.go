package lease

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"io"
	"time"

	"github.com/strata-nix/strata/storepath"
)

// The format, see doc/formats/lease.md.
const (
	magic   = "strlease"
	version = 1
	// MaxRoots bounds the roots of a lease: 20 MiB of hash parts.
	MaxRoots = 1 << 20
	// maxText bounds each text of the header.
	maxText = 4 << 10
	// maxHeader is how many bytes a header has at most.
	maxHeader = 8 + 4 + 8*4 + 3*(2+maxText) + 4
	sumLen    = sha256.Size
)

// Encode gives the bytes of a lease. The roots must be sorted.
func (l *Lease) Encode() ([]byte, error) {
	b := make([]byte, 0, maxHeader/8+len(l.Roots)*HashLen+sumLen)
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint32(b, version)
	b = binary.LittleEndian.AppendUint64(b, l.Sequence)
	b = binary.LittleEndian.AppendUint64(b, uint64(l.Published.UnixMilli())) //nolint:gosec // two's complement, as said in the format
	b = binary.LittleEndian.AppendUint64(b, uint64(l.Expires.UnixMilli()))   //nolint:gosec // likewise
	b = binary.LittleEndian.AppendUint64(b, l.Uses)
	for _, text := range []string{string(l.StoreDir), l.Consumer, l.Holder} {
		if len(text) > maxText {
			return nil, malformed("a text of %d bytes", len(text))
		}
		b = binary.LittleEndian.AppendUint16(b, uint16(len(text))) //nolint:gosec // at most maxText
		b = append(b, text...)
	}
	if len(l.Roots) > MaxRoots {
		return nil, malformed("%d roots, and the most are %d", len(l.Roots), MaxRoots)
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(l.Roots))) //nolint:gosec // at most MaxRoots
	for _, h := range l.Roots {
		b = append(b, h[:]...)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...), nil
}

// Decode reads a lease to the end of the stream, and checks all of it. Errors
// about the bytes are [ErrFormat].
func Decode(r io.Reader) (*Lease, error) {
	d := decoder{r: r, sum: sha256.New()}
	l := d.header()
	n := d.u32()
	if d.err == nil && n > MaxRoots {
		d.err = malformed("%d roots, and the most are %d", n, MaxRoots)
	}
	if d.err == nil {
		d.roots(l, int(n))
	}
	d.end()
	if d.err != nil {
		return nil, d.err
	}
	return l, nil
}

// decodeHeader reads all of a lease but its roots, and cannot check the sum.
func decodeHeader(r io.Reader) (*Lease, error) {
	d := decoder{r: r, sum: sha256.New()}
	l := d.header()
	return l, d.err
}

// decoder reads fields until the first error.
type decoder struct {
	r   io.Reader
	sum hash.Hash
	err error
}

func (d *decoder) bytes(n int) []byte {
	b := make([]byte, n)
	if d.err == nil {
		_, err := io.ReadFull(d.r, b)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = malformed("it ends in the middle")
		}
		d.err = err
		d.sum.Write(b)
	}
	return b
}

func (d *decoder) u16() uint16 { return binary.LittleEndian.Uint16(d.bytes(2)) }
func (d *decoder) u32() uint32 { return binary.LittleEndian.Uint32(d.bytes(4)) }
func (d *decoder) u64() uint64 { return binary.LittleEndian.Uint64(d.bytes(8)) }

// maxMillis keeps times where arithmetic with them is safe: to the year 9999.
const maxMillis = 253402300799999

func (d *decoder) time(what string) time.Time {
	ms := int64(d.u64()) //nolint:gosec // two's complement
	if d.err == nil && (ms < 0 || ms > maxMillis) {
		d.err = malformed("%s at no time that can be", what)
	}
	return time.UnixMilli(ms).UTC()
}

func (d *decoder) text(what string) string {
	n := int(d.u16())
	if d.err == nil && n > maxText {
		d.err = malformed("%s has %d bytes", what, n)
	}
	if d.err != nil {
		return ""
	}
	b := d.bytes(n)
	for _, c := range b {
		if d.err == nil && (c < ' ' || c == 0x7f) {
			d.err = malformed("%s has a control character", what)
		}
	}
	return string(b)
}

func (d *decoder) header() *Lease {
	if got := d.bytes(len(magic)); d.err == nil && string(got) != magic {
		d.err = malformed("it does not begin as one")
	}
	if v := d.u32(); d.err == nil && v != version {
		d.err = malformed("it is of version %d, and this program reads version %d", v, version)
	}
	l := &Lease{Sequence: d.u64()}
	l.Published, l.Expires = d.time("published"), d.time("expiring")
	l.Uses = d.u64()
	dir := d.text("the store directory")
	l.Consumer, l.Holder = d.text("the consumer"), d.text("the holder")
	if d.err != nil {
		return l
	}
	if err := CheckConsumer(l.Consumer); err != nil {
		d.err = malformed("%v", err)
		return l
	}
	var err error
	if l.StoreDir, err = storepath.ParseDir(dir); err != nil {
		d.err = malformed("%v", err)
	}
	return l
}

// atOnce is how many roots are read at a time: memory is for what has come.
const atOnce = 4096

func (d *decoder) roots(l *Lease, n int) {
	for left := n; left > 0 && d.err == nil; {
		b := d.bytes(min(left, atOnce) * HashLen)
		for ; len(b) > 0 && d.err == nil; b = b[HashLen:] {
			h := Hash(b[:HashLen])
			if k := len(l.Roots); k > 0 && compareHashes(l.Roots[k-1], h) >= 0 {
				d.err = malformed("its roots are not sorted")
			}
			l.Roots = append(l.Roots, h)
			left--
		}
	}
}

// end checks the sum, and that nothing follows.
func (d *decoder) end() {
	if d.err != nil {
		return
	}
	want := d.sum.Sum(nil)
	if got := d.bytes(sumLen); d.err == nil && !bytes.Equal(got, want) {
		d.err = malformed("its checksum is wrong")
	}
	if d.err != nil {
		return
	}
	var more [1]byte
	switch n, err := io.ReadFull(d.r, more[:]); {
	case n > 0:
		d.err = malformed("something follows")
	case !errors.Is(err, io.EOF):
		d.err = err
	}
}
