package fusefs_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
)

// What programs do to read-only files goes as on a plain file system.
func TestReadOnlyBehaviour(t *testing.T) {
	testenv.FUSE(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	objects := makeObjects(t)
	s := serve(t, objects)
	large, want := filepath.Join(s.at, "tree/share/large"), mustRead(t, filepath.Join(objects, "tree/share/large"))
	fd, err := unix.Open(large, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)

	t.Run("mmap", func(t *testing.T) {
		// Faulted in by a process of its own: ours may be needed to start one.
		out, err := exec.Command("cmp", large, filepath.Join(objects, "tree/share/large")).CombinedOutput()
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
		m, err := unix.Mmap(fd, 4096, 8192, unix.PROT_READ, unix.MAP_PRIVATE)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(m, want[4096:4096+8192]) {
			t.Error("other contents are mapped")
		}
		if err := unix.Munmap(m); err != nil {
			t.Error(err)
		}
	})
	t.Run("sendfile", func(t *testing.T) {
		to, err := os.Create(filepath.Join(testenv.Scratch(t), "copy"))
		if err != nil {
			t.Fatal(err)
		}
		defer to.Close()
		off := int64(1000)
		for off < int64(len(want)) {
			if n, err := unix.Sendfile(int(to.Fd()), fd, &off, len(want)); err != nil || n == 0 {
				t.Fatalf("%d, %v", n, err)
			}
		}
		if got := mustRead(t, to.Name()); !bytes.Equal(got, want[1000:]) {
			t.Error("other contents were sent")
		}
	})
	t.Run("pread, past the end", func(t *testing.T) {
		b := make([]byte, 100)
		if n, err := unix.Pread(fd, b, int64(len(want))-10); n != 10 || err != nil || !bytes.Equal(b[:n], want[len(want)-10:]) {
			t.Errorf("%d, %v", n, err)
		}
		if n, err := unix.Pread(fd, b, int64(len(want))+1<<40); n != 0 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	})
	t.Run("O_DIRECT", func(t *testing.T) {
		d, err := unix.Open(large, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(d)
		b, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := unix.Pread(d, b, 4096); err != nil || !bytes.Equal(b[:n], want[4096:4096+n]) {
			t.Errorf("%d, %v", n, err)
		}
	})
	t.Run("seek", func(t *testing.T) {
		if at, err := unix.Seek(fd, 0, unix.SEEK_END); at != int64(len(want)) || err != nil {
			t.Errorf("%d, %v", at, err)
		}
		if at, err := unix.Seek(fd, 10, unix.SEEK_DATA); at != 10 || err != nil {
			t.Errorf("%d, %v", at, err)
		}
		if at, err := unix.Seek(fd, 10, unix.SEEK_HOLE); at != int64(len(want)) || err != nil {
			t.Errorf("%d, %v", at, err)
		}
	})
	t.Run("statx", func(t *testing.T) {
		var a, b unix.Statx_t
		mask := unix.STATX_BASIC_STATS
		err := errors.Join(unix.Statx(unix.AT_FDCWD, large, 0, mask, &a), unix.Statx(unix.AT_FDCWD, filepath.Join(objects, "tree/share/large"), 0, mask, &b))
		if err != nil || a.Mode != b.Mode || a.Size != b.Size || a.Mtime != b.Mtime || a.Nlink != b.Nlink {
			t.Errorf("%+v, want %+v (%v)", a, b, err)
		}
	})
	t.Run("extended attributes", func(t *testing.T) {
		if _, err := unix.Getxattr(large, "user.none", nil); !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENODATA) {
			t.Errorf("%v", err)
		}
	})
	t.Run("what it is not", func(t *testing.T) {
		_, dirErr := os.ReadFile(filepath.Join(s.at, "tree"))
		_, fileErr := os.ReadDir(large)
		_, linkErr := os.Readlink(large)
		_, noDir := os.Stat(large + "/x")
		if !errors.Is(dirErr, unix.EISDIR) || !errors.Is(fileErr, unix.ENOTDIR) || !errors.Is(linkErr, unix.EINVAL) || !errors.Is(noDir, unix.ENOTDIR) {
			t.Errorf("%v; %v; %v; %v", dirErr, fileErr, linkErr, noDir)
		}
	})
	t.Run("nothing can be changed", func(t *testing.T) {
		small := filepath.Join(s.at, "tree/share")
		for what, err := range map[string]error{
			"write":    openError(large, unix.O_WRONLY),
			"truncate": unix.Truncate(large, 0),
			"create":   openError(small+"/new", unix.O_WRONLY|unix.O_CREAT),
			"mkdir":    unix.Mkdir(small+"/new", 0o755),
			"symlink":  unix.Symlink("x", small+"/new"),
			"link":     unix.Link(large, small+"/new"),
			"rename":   unix.Rename(large, small+"/new"),
			"unlink":   unix.Unlink(large),
			"rmdir":    unix.Rmdir(small),
			"chmod":    unix.Chmod(large, 0o644),
			"setxattr": unix.Setxattr(large, "user.x", nil, 0),
			"utimes":   unix.Utimes(large, make([]unix.Timeval, 2)),
			"a name":   unix.Mkdir(s.at+"/new", 0o755),
		} {
			if !errors.Is(err, unix.EROFS) {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
	t.Run("what is not there", func(t *testing.T) {
		for _, name := range []string{"tree/share/none", "none", "tree/none/x"} {
			for range 2 { // the second time the kernel knows
				if _, err := os.Lstat(filepath.Join(s.at, name)); !errors.Is(err, unix.ENOENT) {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	})
	t.Run("seekdir", func(t *testing.T) { seekDirectory(t, filepath.Join(s.at, "tree/many"), 3000) })
}

// openError is why a file cannot be opened.
func openError(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func mustRead(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// seekDirectory reads a directory in pieces, going back to places where it was before.
func seekDirectory(t *testing.T, dir string, want int) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 1000)
	piece := func() (names []string) {
		n, err := unix.ReadDirent(fd, buf)
		if err != nil {
			t.Fatal(err)
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, nil)
		return names
	}
	var places []int64
	var pieces [][]string
	total := 0
	for {
		at, err := unix.Seek(fd, 0, unix.SEEK_CUR)
		if err != nil {
			t.Fatal(err)
		}
		names := piece()
		if len(names) == 0 {
			break
		}
		places, pieces = append(places, at), append(pieces, names)
		total += len(names)
	}
	if total != want {
		t.Errorf("%d entries, want %d", total, want)
	}
	for _, i := range []int{len(places) / 2, 1, len(places) - 1, 0} {
		if _, err := unix.Seek(fd, places[i], unix.SEEK_SET); err != nil {
			t.Fatal(err)
		}
		// How many come at once may differ, but not which.
		names := piece()
		if n := min(len(names), len(pieces[i])); n == 0 || !slices.Equal(names[:n], pieces[i][:n]) {
			t.Errorf("at %d there are %.3q, and before %.3q", places[i], names, pieces[i])
		}
	}
}
