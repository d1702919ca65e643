package wire

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestRoundTrip(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	long := strings.Repeat("x", 200_003)
	w.Uint64(1<<63 + 5)
	w.Bool(true)
	w.Text("")
	w.Joined("123", "", "45678")
	w.Bytes([]byte("123456789"))
	w.Text(long)
	w.Strings([]string{"a", "", "b"})
	f := NewFrameWriter(w)
	_, _ = io.WriteString(f, "one ")
	_, _ = io.WriteString(f, "two")
	_ = f.Close()
	w.Uint64(7)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}

	for name, src := range map[string]io.Reader{"whole": bytes.NewReader(b.Bytes()), "byte by byte": iotest.OneByteReader(bytes.NewReader(b.Bytes()))} {
		r := NewReader(src)
		if n := r.Uint64(); n != 1<<63+5 {
			t.Errorf("%s: integer %d", name, n)
		}
		if !r.Bool() || r.Text() != "" || r.Text() != "12345678" || string(r.Bytes(9)) != "123456789" || r.Text() != long {
			t.Errorf("%s: strings differ", name)
		}
		if l := r.Strings(); strings.Join(l, ",") != "a,,b" {
			t.Errorf("%s: list %q", name, l)
		}
		if s, err := io.ReadAll(NewFrameReader(r)); err != nil || string(s) != "one two" {
			t.Errorf("%s: frames %q, %v", name, s, err)
		}
		if r.Uint64() != 7 || r.Err() != nil || r.Offset() != int64(b.Len()) {
			t.Errorf("%s: end: %v at %d", name, r.Err(), r.Offset())
		}
		if r.Uint64(); !errors.Is(r.Err(), io.EOF) {
			t.Errorf("%s: after the end: %v", name, r.Err())
		}
	}
}

func TestTruncation(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	w.Text("hello")
	_ = w.Flush()
	for n := 1; n < b.Len(); n++ {
		r := NewReader(bytes.NewReader(b.Bytes()[:n]))
		if s := r.Text(); s != "" || !errors.Is(r.Err(), io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %q, %v", n, s, r.Err())
		}
	}
}

func TestLies(t *testing.T) {
	number := func(n uint64) []byte {
		var b bytes.Buffer
		w := NewWriter(&b)
		w.Uint64(n)
		_ = w.Flush()
		return b.Bytes()
	}
	r := NewReader(bytes.NewReader(number(1 << 62)))
	if r.Text(); !errors.Is(r.Err(), ErrFormat) {
		t.Errorf("a string of 2^62 bytes: %v", r.Err())
	}
	r = NewReader(bytes.NewReader(number(1 << 62)))
	if r.Strings(); !errors.Is(r.Err(), ErrFormat) {
		t.Errorf("a list of 2^62 elements: %v", r.Err())
	}
	r = NewReader(bytes.NewReader(append(number(1), "a\x00\x00\x00\x00\x00\x00\x01"...)))
	if r.Text(); !errors.Is(r.Err(), ErrFormat) {
		t.Errorf("bad padding: %v", r.Err())
	}
	// What is claimed but never sent is not allocated.
	claim := number(MaxString)
	if got := testing.AllocsPerRun(1, func() { NewReader(bytes.NewReader(claim)).Text() }); got > 20 {
		t.Errorf("%v allocations for a string that never came", got)
	}
	var f = NewFrameReader(NewReader(bytes.NewReader(append(number(10), "short"...))))
	if _, err := io.ReadAll(f); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("frame cut short: %v", err)
	}
}

func FuzzReader(f *testing.F) {
	var b bytes.Buffer
	w := NewWriter(&b)
	w.Strings([]string{"a", "bc"})
	fw := NewFrameWriter(w)
	_, _ = io.WriteString(fw, "data")
	_ = fw.Close()
	_ = w.Flush()
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewReader(bytes.NewReader(data))
		l := r.Strings()
		frames, _ := io.ReadAll(NewFrameReader(r))
		if total := len(strings.Join(l, "")) + len(frames); total > len(data) {
			t.Fatalf("%d bytes out of %d", total, len(data))
		}
	})
}

func BenchmarkString(b *testing.B) {
	var buf bytes.Buffer
	w := NewWriter(&buf)
	for range 1000 {
		w.Text("/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-hello-2.12")
	}
	_ = w.Flush()
	b.SetBytes(int64(buf.Len()))
	for b.Loop() {
		r := NewReader(bytes.NewReader(buf.Bytes()))
		for range 1000 {
			_ = r.Text()
		}
	}
}
