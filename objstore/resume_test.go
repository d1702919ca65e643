package objstore_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/strata-nix/strata/internal/fault"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/objstore/objstoretest"
)

func TestResuming(t *testing.T) {
	objstoretest.Run(t, func(*testing.T) objstore.Store { return objstore.Resume(objstore.NewMemory(), 3) })
}

var errReset = errors.New("connection reset")

// breaking makes the first n bodies break off after some bytes.
func breaking(memory objstore.Store, n, after int) *fault.Objects {
	return &fault.Objects{Store: memory, Body: func(_ string, body io.ReadCloser) io.ReadCloser {
		if n--; n < 0 {
			return body
		}
		return struct {
			io.Reader
			io.Closer
		}{io.MultiReader(io.LimitReader(body, int64(after)), reset{}), body}
	}}
}

type reset struct{}

func (reset) Read([]byte) (int, error) { return 0, errReset }

func TestResumeGoesOn(t *testing.T) {
	text := strings.Repeat("0123456789", 100)
	for _, c := range []struct {
		n, after int
		o        objstore.GetOptions
		want     string
		err      error
	}{
		{n: 0, want: text},
		{n: 1, after: 10, want: text},
		{n: 5, after: 100, want: text},            // each time something came
		{n: 1, after: 0, want: text},              // at once
		{n: 3, after: 0, want: "", err: errReset}, // and nothing ever
		{n: 5, after: 100, o: objstore.GetOptions{Offset: 15, Length: 300}, want: text[15:315]},
		{n: 1, after: 300, o: objstore.GetOptions{Offset: 15, Length: 300}, want: text[15:315]},
	} {
		synctest.Test(t, func(t *testing.T) {
			memory := objstore.NewMemory()
			objstoretest.Put(t, memory, "x", text)
			body, _, err := objstore.Resume(breaking(memory, c.n, c.after), 3).Get(t.Context(), "x", c.o)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(body)
			if string(got) != c.want || !errors.Is(err, c.err) {
				t.Errorf("%+v: %d bytes, %v; want %d", c, len(got), err, len(c.want))
			}
			if err := body.Close(); err != nil {
				t.Error(err)
			}
			if _, err := body.Read(make([]byte, 1)); err == nil {
				t.Error("read after it was closed")
			}
		})
	}
}

// Two versions of an object are never put together.
func TestResumeNoticesAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := objstore.NewMemory()
		objstoretest.Put(t, memory, "x", "old and long")
		body, _, err := objstore.Resume(breaking(memory, 1, 3), 3).Get(t.Context(), "x", objstore.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		objstoretest.Put(t, memory, "x", "new and long")
		if got, err := io.ReadAll(body); !errors.Is(err, objstore.ErrChanged) || string(got) != "old" {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestResumeIsCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := objstore.NewMemory()
		objstoretest.Put(t, memory, "x", "text")
		ctx, cancel := context.WithCancelCause(t.Context())
		body, _, err := objstore.Resume(breaking(memory, 100, 0), 100).Get(ctx, "x", objstore.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		stop := errors.New("enough")
		cancel(stop)
		if _, err := io.ReadAll(body); !errors.Is(err, stop) {
			t.Errorf("%v", err)
		}
	})
}
