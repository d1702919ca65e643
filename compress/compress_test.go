package compress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/strata-nix/strata/internal/testenv"
)

// text is n bytes that compress about as well as a program.
func text(n int) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	for b.Len() < n {
		if rng.IntN(4) == 0 {
			b.WriteByte(byte(rng.Uint32()))
		}
		fmt.Fprintf(&b, "/nix/store/%x-", rng.IntN(5000))
	}
	return b.Bytes()[:n]
}

func packed(t testing.TB, m Method, data []byte, opts Options) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriter(t.Context(), m, &b, opts)
	if err != nil {
		t.Fatal(err)
	}
	for p := data; len(p) > 0; { // not all at once
		n := min(len(p), 100_000)
		if _, err := w.Write(p[:n]); err != nil {
			t.Fatal(err)
		}
		p = p[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func unpacked(ctx context.Context, m Method, r io.Reader) ([]byte, error) {
	d, err := NewReader(ctx, m, r)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return io.ReadAll(d)
}

// compressing are all methods but none.
var compressing = Methods[1:]

// eachXZ runs a test with and without the program.
func eachXZ(t *testing.T, f func(t *testing.T)) {
	t.Run("go", func(t *testing.T) {
		testenv.LongWithRace(t)
		found := xzProgram
		defer func() { xzProgram = found }()
		xzProgram = func() xzUtils { return xzUtils{} }
		f(t)
	})
	t.Run("program", func(t *testing.T) {
		unpackByProgram(t)
		f(t)
	})
}

// unpackByProgram has it read everything, however small.
func unpackByProgram(t *testing.T) {
	requireXZ(t)
	found, from := xzProgram, xzProgramFrom
	t.Cleanup(func() { xzProgram, xzProgramFrom = found, from })
	xzProgram = func() xzUtils { return xzUtils{found().path, true} }
	xzProgramFrom = xzHeaderLen // of less the program says that it is no xz stream, and not that it ends early
}

// byProgram says whether a reader is a child.
func byProgram(r io.Reader) bool {
	d, ok := r.(*reader)
	if !ok {
		return false
	}
	_, ok = d.codec.(*xzUnpacker)
	return ok
}

func requireXZ(t testing.TB) {
	t.Helper()
	if xzProgram().path == "" {
		testenv.Skip(t, "there is no xz of XZ Utils here")
	}
}

func eachMethod(t *testing.T, f func(t *testing.T, m Method)) {
	for _, m := range compressing {
		t.Run(string(m), func(t *testing.T) {
			if m == XZ {
				eachXZ(t, func(t *testing.T) { f(t, m) })
			} else {
				if m == Bzip2 {
					testenv.LongWithRace(t)
				}
				f(t, m)
			}
		})
	}
}

func TestRoundTrip(t *testing.T) {
	eachMethod(t, func(t *testing.T, m Method) {
		for name, data := range map[string][]byte{
			"nothing": nil, "a byte": {7}, "zeros": make([]byte, 1<<20), "text": text(300_000),
		} {
			for _, opts := range []Options{
				{DefaultLevel, false}, {DefaultLevel, true}, {encoders[m].lowest, false}, {encoders[m].highest, false},
			} {
				if opts.Level == encoders[m].highest {
					data = data[:min(len(data), 100_000)] // slow
				}
				z := packed(t, m, data, opts)
				got, err := unpacked(t.Context(), m, bytes.NewReader(z))
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s, %+v: %d bytes instead of %d: %v", name, opts, len(got), len(data), err)
				}
			}
		}
	})
}

func TestNonePassesOn(t *testing.T) {
	for _, m := range []Method{None, ""} {
		data := text(5000)
		z := packed(t, m, data, Options{Level: 99})
		got, err := unpacked(t.Context(), m, iotest.OneByteReader(bytes.NewReader(z)))
		if err != nil || !bytes.Equal(z, data) || !bytes.Equal(got, data) {
			t.Errorf("%q: %v", m, err)
		}
	}
}

// Several streams in a row are one. Brotli has no such thing.
func TestConcatenatedStreams(t *testing.T) {
	eachMethod(t, func(t *testing.T, m Method) {
		data := text(300_000)
		z := append(packed(t, m, data[:200_000], Options{Level: 1}), packed(t, m, data[200_000:], Options{Level: 1})...)
		got, err := unpacked(t.Context(), m, bytes.NewReader(z))
		if m == Brotli {
			if !errors.Is(err, ErrTrailing) {
				t.Errorf("error %v", err)
			}
		} else if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes: %v", len(got), err)
		}
	})
}

// A stream that ends too early is told from all other faults, wherever it ends.
func TestTruncated(t *testing.T) {
	eachMethod(t, func(t *testing.T, m Method) {
		z := packed(t, m, text(600_000), Options{Level: 1})
		for _, n := range []int{0, 1, 3, 10, 20, 1000, len(z) / 2, len(z) - 20, len(z) - 9, len(z) - 4, len(z) - 1} {
			_, err := unpacked(t.Context(), m, bytes.NewReader(z[:n]))
			fault, ok := errors.AsType[*Error](err)
			if !errors.Is(err, io.ErrUnexpectedEOF) || !ok || fault.Method != m || !strings.Contains(err.Error(), string(m)) {
				t.Errorf("%d of %d bytes: %v", n, len(z), err)
			}
		}
	})
}

func TestTrailing(t *testing.T) {
	eachMethod(t, func(t *testing.T, m Method) {
		for _, data := range [][]byte{text(1000), text(600_000)} {
			z := packed(t, m, data, Options{Level: 1})
			_, err := unpacked(t.Context(), m, bytes.NewReader(append(z, "this does not belong here at all"...)))
			want := ErrTrailing
			if m == XZ && xzProgramFrom == xzHeaderLen {
				want = ErrCorrupt
			}
			if !errors.Is(err, want) {
				t.Errorf("long: %v", err)
			}
			if _, err := unpacked(t.Context(), m, bytes.NewReader(append(z, 'x'))); err == nil {
				t.Errorf("one byte: no error")
			}
		}
	})
}

func TestCorrupt(t *testing.T) {
	eachMethod(t, func(t *testing.T, m Method) {
		data := text(600_000)
		z := packed(t, m, data, Options{Level: 1})
		for _, at := range []int{0, len(z) / 3, len(z) / 2} {
			bad := bytes.Clone(z)
			for i := range 40 {
				bad[at+i] ^= 0x55
			}
			got, err := unpacked(t.Context(), m, bytes.NewReader(bad))
			if err == nil && (m != Brotli || bytes.Equal(got, data)) { // brotli has no checksum
				t.Errorf("at %d: no error", at)
			}
			if fault, ok := errors.AsType[*Error](err); err != nil && (!ok || fault.Method != m) {
				t.Errorf("at %d: %v", at, err)
			}
		}
		if _, err := unpacked(t.Context(), m, strings.NewReader("<html>this is no compressed stream</html>")); !errors.Is(err, ErrCorrupt) {
			t.Errorf("something else: %v", err)
		}
	})
}

// What the underlying reader fails with is not made into a fault of the data.
func TestErrorOfReader(t *testing.T) {
	broken := errors.New("connection reset")
	eachMethod(t, func(t *testing.T, m Method) {
		z := packed(t, m, text(800_000), Options{Level: 1})
		for _, n := range []int{0, 5, len(z) / 2, len(z)} {
			r := io.MultiReader(bytes.NewReader(z[:n]), iotest.ErrReader(broken))
			if _, err := unpacked(t.Context(), m, r); err != broken {
				t.Errorf("after %d of %d: %v", n, len(z), err)
			}
		}
	})
}

type failingWriter struct {
	left int
	err  error
}

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, w.err
	}
	return len(p), nil
}

func TestErrorOfWriter(t *testing.T) {
	full := errors.New("disk full")
	eachMethod(t, func(t *testing.T, m Method) {
		for _, size := range []int{10, 3 << 20} {
			w, err := NewWriter(t.Context(), m, &failingWriter{5, full}, Options{Level: 1})
			if err != nil {
				t.Fatal(err)
			}
			_, err = w.Write(text(size))
			if closed := w.Close(); closed != full || err != nil && err != full {
				t.Errorf("%d bytes: %v, %v", size, err, closed)
			}
		}
	})
}

func TestCancel(t *testing.T) {
	stop := errors.New("never mind")
	eachMethod(t, func(t *testing.T, m Method) {
		ctx, cancel := context.WithCancelCause(t.Context())
		z := packed(t, m, text(3<<20), Options{Level: 1})
		r, err := NewReader(ctx, m, bytes.NewReader(z))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		w, err := NewWriter(ctx, m, io.Discard, Options{Level: 1})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(text(1000)); err != nil {
			t.Fatal(err)
		}
		cancel(stop)
		if _, err := io.Copy(io.Discard, r); err != stop {
			t.Errorf("read: %v", err)
		}
		if _, err := w.Write(text(1000)); err != stop {
			t.Errorf("write: %v", err)
		}
		if err := w.Close(); err != stop {
			t.Errorf("close: %v", err)
		}
	})
}

func TestUseAfterClose(t *testing.T) {
	eachMethod(t, func(t *testing.T, m Method) {
		z := packed(t, m, text(1000), Options{Level: 1})
		r, _ := NewReader(t.Context(), m, bytes.NewReader(z))
		if err := errors.Join(r.Close(), r.Close()); err != nil {
			t.Error(err)
		}
		if _, err := r.Read(make([]byte, 1)); err != ErrClosed {
			t.Errorf("read: %v", err)
		}
		w, _ := NewWriter(t.Context(), m, io.Discard, Options{Level: 1})
		if err := errors.Join(w.Close(), w.Close()); err != nil {
			t.Error(err)
		}
		if _, err := w.Write([]byte("x")); err != ErrClosed {
			t.Errorf("write: %v", err)
		}
	})
}

func TestLevels(t *testing.T) {
	for m, kind := range encoders {
		for _, level := range []int{kind.lowest - 2, kind.highest + 1, 1000} {
			if level == DefaultLevel {
				continue
			}
			if _, err := NewWriter(t.Context(), m, io.Discard, Options{Level: level}); !errors.Is(err, ErrLevel) {
				t.Errorf("%s level %d: %v", m, level, err)
			}
		}
	}
}

func TestMethods(t *testing.T) {
	for _, m := range Methods {
		if got, err := Parse(string(m)); err != nil || got != m {
			t.Errorf("%s: %q, %v", m, got, err)
		}
	}
	for name, want := range map[string]string{
		"lz4": "compression method 'lz4' is not supported", "rar": "unknown compression method 'rar'", "": "unknown compression method ''",
	} {
		_, err := Parse(name)
		unknown, ok := errors.AsType[*UnknownMethodError](err)
		if !ok || unknown.Name != name || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := NewReader(t.Context(), "lz4", nil); err == nil {
		t.Error("a reader of lz4")
	}
	if _, err := NewWriter(t.Context(), "lz4", nil, Options{}); err == nil {
		t.Error("a writer of lz4")
	}
}

func TestDetect(t *testing.T) {
	eachMethod(t, func(t *testing.T, m Method) {
		want := m
		if m == Brotli {
			want = None
		}
		if got := Detect(packed(t, m, text(5000), Options{Level: 1})[:DetectLen]); got != want {
			t.Errorf("detected %s", got)
		}
	})
	for _, s := range []string{"", "B", "nix-archive-1", "\x1f\x8b"} {
		if got := Detect([]byte(s)); got != None {
			t.Errorf("%q: %s", s, got)
		}
	}
}
