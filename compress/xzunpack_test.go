package compress

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// Only what is worth the start of a program is read by one.
func TestWhoUnpacks(t *testing.T) {
	data := text(1 << 20)
	z := packed(t, XZ, data, Options{Level: 0})
	unpackByProgram(t)
	able := xzProgram()
	for _, c := range []struct {
		name string
		from int64
		xz   xzUtils
		want bool
	}{
		{"large", int64(len(z)), able, true},
		{"small", int64(len(z)) + 1, able, false},
		{"a slow program", 1, xzUtils{able.path, false}, false},
		{"no program", 1, xzUtils{}, false},
		{"a program that is gone", 1, xzUtils{"/nonexistent/xz", true}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			xzProgramFrom = c.from
			xzProgram = func() xzUtils { return c.xz }
			r, err := NewReader(t.Context(), XZ, bytes.NewReader(z))
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes of %d: %v", len(got), len(data), err)
			}
			if byProgram(r) != c.want {
				t.Errorf("by the program: %v", !c.want)
			}
		})
	}
}

// Whatever comes in pieces and goes in pieces is the same.
func TestUnpackedInPieces(t *testing.T) {
	unpackByProgram(t)
	data := append(text(2<<20), make([]byte, 9<<20)...)
	z := packed(t, XZ, data, Options{Level: 1})
	for name, src := range map[string]io.Reader{
		"bytes": iotest.OneByteReader(bytes.NewReader(z)), "with the error": iotest.DataErrReader(bytes.NewReader(z)),
	} {
		r, err := NewReader(t.Context(), XZ, src)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(iotest.HalfReader(r))
		if err != nil || !bytes.Equal(got, data) || !byProgram(r) {
			t.Errorf("%s: %d bytes of %d: %v", name, len(got), len(data), err)
		}
		c := r.(*reader).codec.(*xzUnpacker).child
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		gone(t, c)
	}
}

// Who closes a reader has no program left, wherever it was.
func TestCloseEndsUnpacking(t *testing.T) {
	unpackByProgram(t)
	z := packed(t, XZ, make([]byte, 64<<20), Options{Level: 0})
	for _, n := range []int{1, 1 << 20} {
		r, err := NewReader(t.Context(), XZ, bytes.NewReader(z))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		c := r.(*reader).codec.(*xzUnpacker).child
		r.Close()
		gone(t, c)
		if _, err := r.Read(make([]byte, 1)); err != ErrClosed {
			t.Errorf("read: %v", err)
		}
	}
}

// A program that takes nothing and gives nothing is waited for until somebody has
// had enough.
func TestCancelUnpacking(t *testing.T) {
	z := packed(t, XZ, text(3<<20), Options{Level: 0})
	fakeXZ(t, "exec sleep 1000")
	ctx, cancel := context.WithCancelCause(t.Context())
	r, err := NewReader(ctx, XZ, bytes.NewReader(z))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	stop := errors.New("never mind")
	read := make(chan error)
	go func() {
		_, err := r.Read(make([]byte, 1))
		read <- err
	}()
	cancel(stop)
	if err := <-read; err != stop {
		t.Error(err)
	}
}

func TestUnpackerFails(t *testing.T) {
	z := packed(t, XZ, text(3<<20), Options{Level: 0})
	for script, want := range map[string]string{
		"echo 'xz: out of order' >&2; exit 3":                       "out of order",
		"head -c 1000 >/dev/null; echo 'xz: ill' >&2; exit 3":       "ill",
		"echo done; exit 0":                                         "ended before what it was to read",
		"kill -9 $$":                                                "killed",
		"echo 'xz: (stdin): Compressed data is corrupt'>&2; exit 1": ErrCorrupt.Error(),
	} {
		fakeXZ(t, script)
		_, err := unpacked(t.Context(), XZ, bytes.NewReader(z))
		if fault, ok := errors.AsType[*Error](err); !ok || fault.Method != XZ || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", script, err)
		}
	}
}
