package nar

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// surveyed is a tree with an object of each kind, and its archive.
func surveyed(t *testing.T) (root, whole string) {
	t.Helper()
	root = filepath.Join(t.TempDir(), "tree")
	os.MkdirAll(root+"/b/deep", 0o755)
	os.WriteFile(root+"/b/x", []byte("exec"), 0o755)
	os.WriteFile(root+"/b.txt", []byte("12345678"), 0o644)
	os.WriteFile(root+"/empty", nil, 0o644)
	os.WriteFile(root+"/z", bytes.Repeat([]byte("z"), 300), 0o644)
	os.Symlink("b/x", root+"/link")
	return root, dumpString(t, root)
}

func TestDumpRangeGivesEachPartOfTheArchive(t *testing.T) {
	root, whole := surveyed(t)
	size := len(whole)
	for from := 0; from <= size; from += 3 {
		for _, to := range []int{from, from + 1, from + 8, from + 100, size, size + 10} {
			var b bytes.Buffer
			if err := DumpRange(ctx, &b, root, int64(from), int64(to)); err != nil {
				t.Fatal(from, to, err)
			}
			if want := whole[from:max(from, min(to, size))]; b.String() != want {
				t.Fatalf("%d to %d:\ngot  %q\nwant %q", from, to, &b, want)
			}
		}
	}
	for _, r := range [][2]int64{{-1, 5}, {6, 5}} {
		if err := DumpRange(ctx, &bytes.Buffer{}, root, r[0], r[1]); err == nil {
			t.Errorf("%v: no error", r)
		}
	}
}

func TestDumpRangeOfLargeFiles(t *testing.T) {
	root := filepath.Join(t.TempDir(), "f")
	os.WriteFile(root, bytes.Repeat([]byte("0123456789"), 100_000), 0o644)
	whole := dumpString(t, root)
	for _, r := range [][2]int64{{0, 1}, {bulkSize - 1, bulkSize + 1}, {90, 3*bulkSize + 7}, {500_003, 500_004}} {
		var b bytes.Buffer
		if err := DumpRange(ctx, &b, root, r[0], r[1]); err != nil || b.String() != whole[r[0]:r[1]] {
			t.Errorf("%v: %d bytes, %v", r, b.Len(), err)
		}
	}
}

// Nothing is opened that is not in the range: here what cannot be.
func TestDumpRangeReadsNothingElse(t *testing.T) {
	root, whole := surveyed(t)
	at := int64(strings.Index(whole, "12345678"))
	for _, name := range []string{"/b/x", "/z"} { // before it and after it
		if err := os.Remove(root + name); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mkfifo(root+name, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := DumpRange(ctx, &b, root, at, at+8); !errors.Is(err, ErrUnsupportedType) {
		t.Errorf("a FIFO before the range: %q, %v", &b, err)
	}
	os.Remove(root + "/b/x")
	os.WriteFile(root+"/b/x", []byte("1234"), 0o700)
	b.Reset()
	if err := DumpRange(ctx, &b, root, at, at+8); err != nil || b.String() != "12345678" {
		t.Errorf("%q, %v", &b, err)
	}
}

func TestListTreeIsTheListOfTheArchive(t *testing.T) {
	root, whole := surveyed(t)
	want, err := List(strings.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	got, err := ListTree(ctx, root)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-archive +tree:\n%s", d)
	}
	for _, name := range []string{"b.txt", "link"} {
		want, _ := List(strings.NewReader(dumpString(t, root+"/"+name)))
		got, err := ListTree(ctx, root+"/"+name)
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%s: %v\n%s", name, err, d)
		}
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := ListTree(canceled, root); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := ListTree(ctx, root+"/none"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
