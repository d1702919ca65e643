package compress

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
)

// FuzzReader wants no more than that a stream is read or refused.
func FuzzReader(f *testing.F) {
	f.Fuzz(func(t *testing.T, method byte, data []byte) {
		m := Methods[int(method)%len(Methods)]
		r, err := NewReader(context.Background(), m, bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		_, err = io.Copy(io.Discard, io.LimitReader(r, 1<<20))
		if fault, ok := errors.AsType[*Error](err); err != nil && (!ok || fault.Method != m) {
			t.Errorf("%T: %v", err, err)
		}
	})
}
