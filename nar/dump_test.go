package nar

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
)

func TestDumpGolden(t *testing.T) {
	root := filepath.Join(t.TempDir(), "tree")
	os.MkdirAll(root+"/b/deep", 0o700)
	os.WriteFile(root+"/b/x", []byte("exec"), 0o100)
	os.WriteFile(root+"/b.txt", []byte("12345678"), 0o666)
	os.WriteFile(root+"/B", nil, 0o077) // executable, but not for its owner
	os.Symlink("b/../\xff", root+"/c")
	os.Chmod(root+"/b/x", 0o500)
	os.Chmod(root+"/B", 0o477)
	want := archive(dirTokens(
		"B", fileTokens(false, ""),
		"b", dirTokens("deep", dirTokens(), "x", fileTokens(true, "exec")),
		"b.txt", fileTokens(false, "12345678"),
		"c", linkTokens("b/../\xff"),
	))
	if got := dumpString(t, root); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got := dumpString(t, root+"/c"); got != archive(linkTokens("b/../\xff")) {
		t.Errorf("a symlink is not followed: %q", got)
	}
	if got := dumpString(t, root+"/b.txt"); got != archive(fileTokens(false, "12345678")) {
		t.Errorf("%q", got)
	}
	dir := must(os.Open(root))
	defer dir.Close()
	var b bytes.Buffer
	if err := DumpAt(ctx, &b, dir, "b.txt"); err != nil || b.String() != archive(fileTokens(false, "12345678")) {
		t.Errorf("%q, %v", &b, err)
	}
	if err := DumpAt(ctx, &b, dir, "../tree"); err == nil {
		t.Error("DumpAt took a path")
	}
}

func TestDumpSizesAroundBuffers(t *testing.T) {
	root := filepath.Join(t.TempDir(), "f")
	for _, base := range []int{0, 8, bulkSize - headerMax, bulkSize - 128, bulkSize, 2 * bulkSize, 3*bulkSize + 1000} {
		for size := max(base-9, 0); size < base+9; size++ {
			data := strings.Repeat("z", size)
			os.WriteFile(root, []byte(data), 0o644)
			if dumpString(t, root) != archive(fileTokens(false, data)) {
				t.Errorf("size %d", size)
			}
		}
	}
}

func TestDumpRestoreOfRealTrees(t *testing.T) {
	for _, real := range []string{"/usr/share/doc", "/usr/lib/terminfo", "/etc", "/usr/share/zoneinfo"} {
		t.Run(filepath.Base(real), func(t *testing.T) {
			if _, err := os.Stat(real); err != nil {
				testenv.Skip(t, "no "+real)
			}
			root := filepath.Join(tempDir(t), "copy")
			if err := copySome(root, real, 300); err != nil {
				t.Fatal(err)
			}
			first := dumpString(t, root)
			if _, err := Restore(ctx, strings.NewReader(first), root+"2", RestoreOptions{}); err != nil {
				t.Fatal(err)
			}
			if dumpString(t, root+"2") != first {
				t.Error("dumping it again gives something else")
			}
			if err := Canonicalise(ctx, root, CanonicaliseOptions{}); err != nil {
				t.Fatal(err)
			}
			a, b := describeTree(t, root), describeTree(t, root+"2")
			if strings.Join(a, "\n") != strings.Join(b, "\n") {
				t.Error("restored and canonicalised trees differ")
			}
		})
	}
}

// copySome copies the first n readable objects of a tree.
func copySome(dst, src string, n int) error {
	return filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(src, path)
		to := filepath.Join(dst, rel)
		if n--; n < 0 {
			return fs.SkipAll
		}
		switch {
		case err != nil:
			return fs.SkipDir
		case d.IsDir():
			return os.Mkdir(to, 0o755)
		case d.Type()&fs.ModeSymlink != 0:
			return os.Symlink(must(os.Readlink(path)), to)
		case d.Type().IsRegular():
			info := must(d.Info())
			data, err := os.ReadFile(path)
			if err != nil {
				return nil
			}
			return os.WriteFile(to, data, info.Mode()|0o600)
		}
		return nil
	})
}

func TestDumpRefusesOtherTypes(t *testing.T) {
	dir := t.TempDir()
	os.MkdirAll(dir+"/fifo/d", 0o755)
	if err := unix.Mkfifo(dir+"/fifo/d/x", 0o644); err != nil {
		t.Fatal(err)
	}
	os.Mkdir(dir+"/socket", 0o755)
	l, err := net.Listen("unix", dir+"/socket/x")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for path, bad := range map[string]string{
		dir + "/fifo":   dir + "/fifo/d/x",
		dir + "/socket": dir + "/socket/x",
		"/dev/null":     "/dev/null",
	} {
		err := Dump(ctx, io.Discard, path)
		if !errors.Is(err, ErrUnsupportedType) || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := Dump(ctx, io.Discard, dir+"/absent"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
}

func TestDumpNestedTooDeeply(t *testing.T) {
	dir := t.TempDir()
	os.MkdirAll(dir+strings.Repeat("/d", 64), 0o755)
	if err := Dump(ctx, io.Discard, dir+"/d"); err != nil {
		t.Errorf("64 deep: %v", err)
	}
	if err := Dump(ctx, io.Discard, dir); !errors.Is(err, ErrTooDeep) {
		t.Errorf("65 deep: %v", err)
	}
}

// writerFunc is called with the first write, before anything more than the
// buffers hold can have been read.
type writerFunc func()

func (f *writerFunc) Write(p []byte) (int, error) {
	if *f != nil {
		(*f)()
		*f = nil
	}
	return len(p), nil
}

func TestDumpNoticesChanges(t *testing.T) {
	for name, change := range map[string]func(dir string) error{
		"file shrinks":         func(dir string) error { return os.Truncate(dir+"/a", 1<<20) },
		"file grows":           func(dir string) error { return os.Truncate(dir+"/a", 9<<20) },
		"file becomes symlink": func(dir string) error { return replace(dir+"/b", "/etc/passwd") },
		"file becomes fifo": func(dir string) error {
			os.Remove(dir + "/b")
			return unix.Mkfifo(dir+"/b", 0o644)
		},
		"directory becomes symlink": func(dir string) error { return replace(dir+"/c", "/etc") },
		"symlink becomes file": func(dir string) error {
			os.Remove(dir + "/d")
			return os.WriteFile(dir+"/d", nil, 0o644)
		},
	} {
		dir := t.TempDir()
		os.WriteFile(dir+"/a", make([]byte, 8<<20), 0o644)
		os.WriteFile(dir+"/b", nil, 0o644)
		os.Mkdir(dir+"/c", 0o755)
		os.Symlink("target", dir+"/d")
		w := writerFunc(func() {
			if err := change(dir); err != nil {
				t.Error(err)
			}
		})
		if err := Dump(ctx, &w, dir); !errors.Is(err, ErrChanged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func replace(path, target string) error {
	os.Remove(path)
	return os.Symlink(target, path)
}

func TestDumpStopsOnWriteErrorAndCancellation(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(dir+"/a", make([]byte, 8<<20), 0o644)
	full := errors.New("disk full")
	if err := Dump(ctx, failingWriter{full}, dir); err != full {
		t.Errorf("got %v, want the writer's error", err)
	}
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(ctx)
	w := writerFunc(func() { cancel(why) })
	if err := Dump(ctx, &w, dir); err != why {
		t.Errorf("got %v, want the cause", err)
	}
	func() {
		defer func() {
			if recover() != "writer" {
				t.Error("the writer's panic got lost")
			}
		}()
		Dump(context.Background(), panicWriter{}, dir)
	}()
}

type panicWriter struct{}

func (panicWriter) Write([]byte) (int, error) { panic("writer") }
