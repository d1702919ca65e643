package compress

import (
	"bytes"
	"io"
	"os"
	"testing"
)

// sample is a real program: this one.
func sample(b *testing.B) []byte {
	b.Helper()
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		b.Fatal(err)
	}
	return data[:min(len(data), 8<<20)]
}

func eachMethodB(b *testing.B, f func(b *testing.B, m Method)) {
	for _, m := range compressing {
		b.Run(string(m), func(b *testing.B) { f(b, m) })
	}
}

// variants are all methods, xz with and without its program.
func variants(b *testing.B, f func(b *testing.B, m Method)) {
	requireXZ(b)
	eachMethodB(b, f)
	b.Run("xz without program", func(b *testing.B) {
		found := xzProgram
		defer func() { xzProgram = found }()
		xzProgram = func() xzUtils { return xzUtils{} }
		f(b, XZ)
	})
}

func BenchmarkRead(b *testing.B) {
	data := sample(b)
	eachMethodB(b, func(b *testing.B, m Method) {
		z := packed(b, m, data, Options{Level: DefaultLevel})
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		for b.Loop() {
			r, err := NewReader(b.Context(), m, bytes.NewReader(z))
			if err != nil {
				b.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, r); err != nil || n != int64(len(data)) {
				b.Fatal(n, err)
			}
			r.Close()
		}
	})
}

// BenchmarkReadSmall is for what costs something per stream, as with narinfos.
func BenchmarkReadSmall(b *testing.B) {
	data := text(2000)
	eachMethodB(b, func(b *testing.B, m Method) {
		z := packed(b, m, data, Options{Level: DefaultLevel})
		b.ReportAllocs()
		for b.Loop() {
			if _, err := unpacked(b.Context(), m, bytes.NewReader(z)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkWrite(b *testing.B) {
	data := sample(b)
	variants(b, func(b *testing.B, m Method) {
		b.SetBytes(int64(len(data)))
		var size int
		for b.Loop() {
			size = len(packed(b, m, data, Options{Level: DefaultLevel}))
		}
		b.ReportMetric(float64(size)/float64(len(data)), "ratio")
	})
}
