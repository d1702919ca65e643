package overlayfs

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFreeze(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		b.write("lower1/a", "a")
		b.mount(b.options("lower1"))
		merged := b.path("merged")
		w, err := os.Create(filepath.Join(merged, "w"))
		if err != nil {
			t.Fatal(err)
		}
		r, err := os.Open(filepath.Join(merged, "a"))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if err := Freeze(merged); !errors.Is(err, ErrWritten) {
			t.Fatalf("while somebody writes: %v", err)
		}
		if _, err := w.WriteString("x"); err != nil {
			t.Error(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := Freeze(merged); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(merged, "b"), nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("written while frozen: %v", err)
		}
		if _, err := r.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
		if err := Thaw(merged); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(merged, "b"), nil, 0o600); err != nil {
			t.Error(err)
		}
	})
}
