package objstore_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/objstore/objstoretest"
)

func TestMemory(t *testing.T) {
	objstoretest.Run(t, func(*testing.T) objstore.Store { return objstore.NewMemory() })
}

func newDirectory(t *testing.T) *objstore.Directory {
	t.Helper()
	d, err := objstore.NewDirectory(filepath.Join(t.TempDir(), "cache"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDirectory(t *testing.T) {
	objstoretest.Run(t, func(t *testing.T) objstore.Store { return newDirectory(t) })
}

// wrapped hides all but the five calls.
type wrapped struct{ objstore.Store }

func TestStageAnywhere(t *testing.T) {
	objstoretest.Run(t, func(t *testing.T) objstore.Store { return wrapped{newDirectory(t)} })
}

// unwrapping shows what it wraps.
type unwrapping struct{ objstore.Store }

func (u unwrapping) Unwrap() objstore.Store { return u.Store }

func TestAs(t *testing.T) {
	d := newDirectory(t)
	if s, ok := objstore.As[objstore.Stager](unwrapping{unwrapping{d}}); !ok || s != objstore.Stager(d) {
		t.Errorf("through wrappers: %v, %v", s, ok)
	}
	if s, ok := objstore.As[objstore.Stager](wrapped{d}); ok {
		t.Errorf("through what does not unwrap: %v", s)
	}
}

func TestDirectoryMustBeAbsolute(t *testing.T) {
	if d, err := objstore.NewDirectory("cache"); err == nil {
		t.Errorf("%+v", d)
	}
}

// What stock Nix is just writing, and what is no file, is not listed.
func TestDirectoryListsObjects(t *testing.T) {
	d := newDirectory(t)
	objstoretest.Put(t, d, "x.narinfo", "x")
	for _, name := range []string{"y.narinfo.tmp.123.4", "x.narinfo.tmp.1.1"} {
		objstoretest.Put(t, d, name, "half of")
	}
	if err := os.Symlink("x.narinfo", filepath.Join(d.Path(), "link.narinfo")); err != nil {
		t.Fatal(err)
	}
	n := 0
	for i, err := range d.List(t.Context(), "") {
		if err != nil || i.Name != "x.narinfo" && i.Name != "link.narinfo" {
			t.Errorf("%+v, %v", i, err)
		}
		n++
	}
	if n != 2 {
		t.Errorf("%d objects", n)
	}
}

// Nobody can make a reader wait for ever, or read what is no file.
func TestDirectoryOpensFilesOnly(t *testing.T) {
	d := newDirectory(t)
	objstoretest.Put(t, d, "nar/x", "x")
	if err := unix.Mkfifo(filepath.Join(d.Path(), "nar", "pipe"), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"nar/pipe"} { // a directory is looked at in the suite
		if r, _, err := d.Get(t.Context(), name, objstore.GetOptions{}); err == nil || errors.Is(err, objstore.ErrNotExist) {
			t.Errorf("get '%s': %v, %v", name, r, err)
		}
		if i, err := d.Stat(t.Context(), name); err == nil {
			t.Errorf("stat '%s': %+v", name, i)
		}
	}
}

// What cannot be read is there.
func TestDirectoryWithoutPermission(t *testing.T) {
	if os.Geteuid() == 0 {
		return // root may read everything
	}
	d := newDirectory(t)
	objstoretest.Put(t, d, "x", "x")
	if err := os.Chmod(filepath.Join(d.Path(), "x"), 0); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Get(t.Context(), "x", objstore.GetOptions{}); !errors.Is(err, os.ErrPermission) || errors.Is(err, objstore.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// Nothing lies about after a failure, in no directory.
func TestDirectoryKeepsNoGarbage(t *testing.T) {
	d := newDirectory(t)
	objstoretest.Put(t, d, "nar/x", "x")
	st, err := d.Stage(t.Context(), "nar")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Write(make([]byte, 3<<20)); err != nil {
		t.Fatal(err)
	}
	entries := func() (names []string) {
		all, err := os.ReadDir(filepath.Join(d.Path(), "nar"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			names = append(names, e.Name())
		}
		return names
	}
	st.Abort()
	if got := entries(); len(got) != 1 {
		t.Errorf("after Abort: %q", got)
	}
	for range 3 {
		objstoretest.Put(t, d, "nar/x", strings.Repeat("y", 1<<20))
	}
	if got := entries(); len(got) != 1 {
		t.Errorf("after replacing: %q", got)
	}
}

func TestDirectoryHoldsNoEncoding(t *testing.T) {
	d := newDirectory(t)
	err := d.Put(t.Context(), "x", strings.NewReader("x"), objstore.PutOptions{Size: 1, ContentEncoding: "br"})
	if !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("%v", err)
	}
}

func TestSpool(t *testing.T) {
	for _, size := range []int{0, 1, 256 << 10, 256<<10 + 1, 5 << 20} {
		data := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
		s := objstore.NewSpool(t.TempDir())
		if n, err := io.Copy(s, chunks{bytes.NewReader(data)}); err != nil || n != int64(size) || s.Size() != n {
			t.Fatalf("%d: %d, %v", size, n, err)
		}
		for range 2 {
			r, err := s.Reader()
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d: %d bytes, %v", size, len(got), err)
			}
		}
		s.Close()
		s.Close()
	}
}

// chunks gives odd pieces and hides everything but Read.
type chunks struct{ r io.Reader }

func (c chunks) Read(p []byte) (int, error) { return c.r.Read(p[:min(len(p), 10_007)]) }

func TestSized(t *testing.T) {
	begun := strings.NewReader("a text")
	if _, err := begun.Seek(2, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		body io.Reader
		size int64
		want string // "": an error
	}{
		{strings.NewReader("text"), 4, "text"},
		{strings.NewReader("text"), 5, ""},
		{strings.NewReader("text"), objstore.Unknown, "text"},
		{begun, 4, "text"},
		{chunks{strings.NewReader("text")}, 4, "text"},
		{chunks{strings.NewReader("text")}, objstore.Unknown, "text"},
		{chunks{strings.NewReader("text")}, 5, ""},
	} {
		r, done, err := objstore.Sized(t.Context(), c.body, c.size)
		if c.want == "" {
			if !errors.Is(err, objstore.ErrSize) {
				t.Errorf("%v", err)
			}
			continue
		}
		if err != nil || r.Size() != 4 {
			t.Fatal(r, err)
		}
		for range 2 {
			if b, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size())); err != nil || string(b) != c.want {
				t.Errorf("%q, %v", b, err)
			}
		}
		done()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := objstore.Sized(ctx, chunks{strings.NewReader("x")}, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}
