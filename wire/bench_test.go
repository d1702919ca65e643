package wire_test

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/strata-nix/strata/wire"
)

const benchPath = "/nix/store/0i5mhysv9wv0y4fqwsbg1ib9gvgjgqwd-libboost1.83-dev-1.83.0-4.2"

func BenchmarkWriteText(b *testing.B) {
	for _, n := range []int{8, 75, 4096} {
		b.Run(fmt.Sprintf("bytes=%d", n), func(b *testing.B) {
			w, s := wire.NewWriter(io.Discard), strings.Repeat("x", n)
			b.SetBytes(int64(n))
			for b.Loop() {
				w.Text(s)
			}
		})
	}
}

func BenchmarkWritePath(b *testing.B) {
	w := wire.NewWriter(io.Discard)
	dir, base := benchPath[:10], benchPath[11:]
	b.ReportAllocs()
	for b.Loop() {
		w.Joined(dir, "/", base)
	}
}

func BenchmarkReadStrings(b *testing.B) {
	var buf bytes.Buffer
	w := wire.NewWriter(&buf)
	w.Strings(strings.Fields(strings.Repeat(benchPath+" ", 1000)))
	if err := w.Flush(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.SetBytes(int64(buf.Len()))
	for b.Loop() {
		r := wire.NewReader(bytes.NewReader(buf.Bytes()))
		if n := len(r.Strings()); n != 1000 {
			b.Fatal(n, r.Err())
		}
	}
}

func BenchmarkReadInts(b *testing.B) {
	r := wire.NewReader(endless{})
	b.SetBytes(8)
	for b.Loop() {
		r.Uint64()
	}
}

// endless is zeros for ever.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func BenchmarkFramed(b *testing.B) {
	p := make([]byte, 64<<10)
	b.SetBytes(int64(len(p)))
	w := wire.NewWriter(io.Discard)
	f := wire.NewFrameWriter(w)
	for b.Loop() {
		if _, err := f.Write(p); err != nil {
			b.Fatal(err)
		}
	}
}
