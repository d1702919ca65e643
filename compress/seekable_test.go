package compress_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/strata-nix/strata/compress"
)

// mixed is data that can be compressed, of n bytes.
func mixed(n int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = "abcdefgh"[r.IntN(8)]
	}
	return b
}

func seekable(t *testing.T, data []byte, piece int, cuts []int64, o compress.Options) ([]byte, []compress.Frame) {
	t.Helper()
	var b bytes.Buffer
	w, err := compress.NewSeekable(t.Context(), &b, o)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(data); at += piece {
		for len(cuts) > 0 && cuts[0] < int64(at+max(100, piece-500_000)) { // some a little late
			w.Cut(cuts[0])
			cuts = cuts[1:]
		}
		if _, err := w.Write(data[at:min(at+piece, len(data))]); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range cuts {
		w.Cut(c)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), w.Frames()
}

func plain(t *testing.T, data []byte) []byte {
	t.Helper()
	r, err := compress.NewReader(t.Context(), compress.Zstd, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Each frame gives its part alone, all together the whole, and the table at the end says where they are.
func TestSeekable(t *testing.T) {
	data := mixed(2<<20 + 17)
	for _, parallel := range []bool{false, true} {
		for _, piece := range []int{1000, 70_000, 3 << 20} {
			t.Run(fmt.Sprintf("%d bytes at once, parallel %t", piece, parallel), func(t *testing.T) {
				cuts := []int64{1, 5000, 5050, 100_000, 1_500_000, 1_500_001, 2<<20 + 10}
				out, frames := seekable(t, data, piece, cuts, compress.Options{Level: compress.DefaultLevel, Parallel: parallel})
				if !bytes.Equal(plain(t, out), data) {
					t.Fatal("the whole is another one")
				}
				begins := map[int64]bool{}
				var file, at int64
				for _, f := range frames {
					begins[at] = true
					got := plain(t, out[file:file+int64(f.Size)])
					if !bytes.Equal(got, data[at:at+int64(f.Plain)]) {
						t.Fatalf("the frame at %d is another one", at)
					}
					file, at = file+int64(f.Size), at+int64(f.Plain)
				}
				for _, c := range cuts {
					if !begins[c] {
						t.Errorf("no frame begins at %d", c)
					}
				}
				end := out[len(out)-9:]
				if n := binary.LittleEndian.Uint32(end); int(n) != len(frames) || binary.LittleEndian.Uint32(end[5:]) != 0x8F92EAB1 {
					t.Errorf("the table ends in %x", end)
				}
				size, ok := compress.SeekTableSize(end)
				if got, err := compress.ParseSeekTable(out[int64(len(out))-size:]); !ok || err != nil || !slices.Equal(got, frames) {
					t.Errorf("the table is read as %v, %v", got, err)
				}
				if int64(len(out)) != file+int64(8+8*len(frames)+9) {
					t.Errorf("the table has %d bytes", int64(len(out))-file)
				}
			})
		}
	}
}

func TestSeekableOfNothing(t *testing.T) {
	out, frames := seekable(t, nil, 1, nil, compress.Options{Level: compress.DefaultLevel})
	if len(frames) != 0 || len(out) != 17 {
		t.Errorf("%d frames in %d bytes", len(frames), len(out))
	}
}

func TestSeekableFails(t *testing.T) {
	if _, err := compress.NewSeekable(t.Context(), io.Discard, compress.Options{Level: 99}); !errors.Is(err, compress.ErrLevel) {
		t.Errorf("%v", err)
	}
	full := errors.New("disk full")
	w, err := compress.NewSeekable(t.Context(), fails{full}, compress.Options{Level: compress.DefaultLevel, Parallel: true})
	if err != nil {
		t.Fatal(err)
	}
	for range 6 {
		_, _ = w.Write(mixed(1 << 20))
	}
	if err := w.Close(); !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("one can go on after an error")
	}
}

type fails struct{ err error }

func (f fails) Write([]byte) (int, error) { return 0, f.err }

// A table is refused, or all of it is read.
func FuzzSeekTable(f *testing.F) {
	f.Fuzz(func(t *testing.T, table []byte) {
		frames, err := compress.ParseSeekTable(table)
		if fault, ok := errors.AsType[*compress.Error](err); err != nil && (!ok || fault.Method != compress.Zstd) {
			t.Errorf("%T: %v", err, err)
		}
		if err == nil && 8*len(frames)+17 != len(table) {
			t.Errorf("%d frames of %d bytes", len(frames), len(table))
		}
	})
}
