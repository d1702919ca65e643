package objstore

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// stage writes a file of a directory and commits it.
func stage(t *testing.T, d *Directory, name string, data []byte) {
	t.Helper()
	st, err := d.Stage(t.Context(), "nar")
	if err != nil {
		t.Fatal(err)
	}
	defer st.Abort()
	if _, err := st.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := st.Commit(t.Context(), name, PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

func check(t *testing.T, d *Directory, name string, want []byte) {
	t.Helper()
	if got, err := os.ReadFile(d.file(name)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v; want %d", len(got), err, len(want))
	}
	if entries, err := os.ReadDir(filepath.Join(d.root, "nar")); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}

// Where there are no files without names, they have names until they are renamed.
func TestWithoutUnnamedFiles(t *testing.T) {
	old := linkable
	linkable = func() bool { return false }
	defer func() { linkable = old }()
	d := &Directory{root: t.TempDir()}
	for _, size := range []int{0, 10, 1 << 20} {
		stage(t, d, "nar/x", make([]byte, size))
		check(t, d, "nar/x", make([]byte, size))
	}
	st, err := d.Stage(t.Context(), "nar")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	st.Abort()
	check(t, d, "nar/x", make([]byte, 1<<20))
}

// Where files cannot be given names they are copied.
func TestWithoutLinks(t *testing.T) {
	d := &Directory{root: t.TempDir()}
	data := bytes.Repeat([]byte("0123456789"), 100_000)
	for range 2 {
		st, err := d.Stage(t.Context(), "nar")
		if err != nil {
			t.Fatal(err)
		}
		f := st.(*stagedFile)
		if _, err := f.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := f.flush(); err != nil {
			t.Fatal(err)
		}
		if f.name == "" { // else the file system is one without unnamed files
			if err := f.christen(d.file("nar/x"), &os.LinkError{Err: unix.EPERM}); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.publish(d.file("nar/x"), false); err != nil {
			t.Fatal(err)
		}
		f.Abort()
		check(t, d, "nar/x", data)
	}
}
