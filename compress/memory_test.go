package compress

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"runtime"
	"slices"
	"testing"
)

// withDictionary is an xz stream whose header asks for another dictionary.
// Source: section 3.1 of the .xz file format, 5.3.1 for the dictionary.
func withDictionary(z []byte, size byte) []byte {
	const block, properties = 12, 12 + 4
	z = bytes.Clone(z)
	z[properties] = size
	end := block + 4*int(z[block]) // of the header, without its checksum
	binary.LittleEndian.PutUint32(z[end:], crc32.ChecksumIEEE(z[block:end]))
	return z
}

// A stream cannot make its reader take much memory before it has brought data.
func TestMemoryIsLimited(t *testing.T) {
	check := func(t *testing.T, m Method, z []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := unpacked(t.Context(), m, bytes.NewReader(z))
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrMemory) {
			t.Errorf("error %v", err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
			t.Errorf("%d bytes were allocated", n)
		}
	}
	t.Run("zstd", func(t *testing.T) {
		for _, log := range []byte{28, 31, 41} {
			check(t, Zstd, append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3}, packed(t, Zstd, text(1000), Options{Level: 3})[6:]...))
		}
	})
	t.Run("zstd in one segment", func(t *testing.T) {
		check(t, Zstd, slices.Concat([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0}, []byte{0, 0, 0, 0, 1, 0, 0, 0}, make([]byte, 100)))
	})
	t.Run("xz", func(t *testing.T) {
		eachXZ(t, func(t *testing.T) {
			for _, size := range []byte{32, 40} { // 256 MiB, 4 GiB
				check(t, XZ, withDictionary(packed(t, XZ, text(1<<20), Options{Level: 1}), size))
			}
		})
	})
}

// What the largest levels of stock tools use can be read.
func TestLargeWindows(t *testing.T) {
	eachXZ(t, func(t *testing.T) {
		data := text(1 << 20)
		z := withDictionary(packed(t, XZ, data, Options{Level: 1}), 30) // 128 MiB
		got, err := unpacked(t.Context(), XZ, bytes.NewReader(z))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%v", err)
		}
	})
}
