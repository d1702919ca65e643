package optimise_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/optimise"
)

// available is how many bytes a file system has left when everything is on disk.
func available(t *testing.T, dir string) int64 {
	t.Helper()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var st unix.Statfs_t
	if err := errors.Join(unix.Syncfs(int(d.Fd())), unix.Fstatfs(int(d.Fd()), &st)); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize
}

// Files that share blocks take no space, and are what they were in every other way.
func TestFilesShareBlocks(t *testing.T) {
	for _, kind := range []string{"btrfs", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			if !testenv.Isolate(t, testenv.Namespace{}) {
				return
			}
			store := filepath.Join(testenv.FileSystem(t, kind), "store")
			large := strings.Repeat("0123456789abcde\n", 1<<16) + "an odd end"
			if err := os.MkdirAll(store, 0o755); err != nil {
				t.Fatal(err)
			}
			var names []string
			for i := range 8 {
				n := fmt.Sprintf("o%d", i)
				names = append(names, n)
				files := map[string]string{"large": large, "small": "small", "own": strings.Repeat(n, 5000)}
				for name, text := range files {
					path := filepath.Join(store, n, name)
					if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o444)); err != nil {
						t.Fatal(err)
					}
				}
				if err := nar.Canonicalise(t.Context(), filepath.Join(store, n), nar.CanonicaliseOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			before, dumps := available(t, store), map[string]string{}
			for _, n := range names {
				dumps[n] = dump(t, filepath.Join(store, n))
			}
			dry := run(t, linker(t, store, optimise.Options{All: true, DryRun: true, Reflink: optimise.Always}), names...)
			s := run(t, linker(t, store, optimise.Options{All: true, Reflink: optimise.Always}), names...)
			if s.Files != 0 || s.Shared != 7 || s.Bytes != 7*uint64(len(large)) || dry.Files != 0 || dry.Shared < s.Shared {
				t.Errorf("%+v, the dry run said %+v", s, dry)
			}
			if gained := available(t, store) - before; gained < 6<<20 {
				t.Errorf("%d bytes left the disk", gained)
			}
			for _, n := range names {
				if dump(t, filepath.Join(store, n)) != dumps[n] {
					t.Errorf("%s has changed", n)
				}
				sealed(t, filepath.Join(store, n))
				if _, links := inode(t, filepath.Join(store, n, "large")); links > 2 {
					t.Errorf("%s/large has %d links", n, links)
				}
			}
			if again := run(t, linker(t, store, optimise.Options{All: true, Reflink: optimise.Always}), names...); again != (optimise.Stats{}) {
				t.Errorf("once more: %+v", again)
			}
		})
	}
}

func TestFileSystemsThatCannotShare(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{User: os.Geteuid() != 0}) {
		return
	}
	dir := testenv.Scratch(t)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	for _, n := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(dir, n), bytes.Repeat([]byte("x"), 8192), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	l := linker(t, dir, optimise.Options{Reflink: optimise.Always})
	_, first := l.Object(t.Context(), "a")
	if _, err := l.Object(t.Context(), "b"); first != nil || !errors.Is(err, optimise.ErrNoSharing) {
		t.Errorf("%v, %v", first, err)
	}
	if s, err := linker(t, dir, optimise.Options{}).Object(t.Context(), "b"); err != nil || s.Files != 1 {
		t.Errorf("%+v, %v", s, err)
	}
}

// A dry run says what a run does, and leaves everything as it is.
func TestDryRun(t *testing.T) {
	store := tree(t, map[string]string{"a/f": "same", "b/f": "same", "c/f": "same", "c/run": "x:same", "d/f": "else", "d/g": "else", "e/l": "->x", "e/m": "->x"})
	listing := func() (out []string) {
		_ = filepath.WalkDir(store, func(path string, _ fs.DirEntry, _ error) error {
			ino, links := inode(t, path)
			out = append(out, fmt.Sprint(path, ino, links))
			return nil
		})
		return out
	}
	names := []string{"a", "b", "c", "d", "e"}
	before := listing()
	dry := run(t, linker(t, store, optimise.Options{All: true, DryRun: true}), names...)
	if after := listing(); strings.Join(before, " ") != strings.Join(after, " ") {
		t.Errorf("changed: %q, was %q", after, before)
	}
	if got := run(t, linker(t, store, optimise.Options{All: true}), names...); got != dry || got.Files != 4 {
		t.Errorf("%+v, the dry run said %+v", got, dry)
	}
	if dry := run(t, linker(t, store, optimise.Options{All: true, DryRun: true}), names...); dry != (optimise.Stats{}) {
		t.Errorf("afterwards a dry run says %+v", dry)
	}
}

// What has a size that nothing else has is not even opened.
func TestFilesWithoutEqualAreNotRead(t *testing.T) {
	store := tree(t, map[string]string{"a/f": "same", "b/f": "same", "c/f": "of another size"})
	run(t, linker(t, store, optimise.Options{All: true}), "a", "b", "c")
	if _, links := inode(t, store+"/c/f"); links != 1 {
		t.Errorf("it has %d links", links)
	}
	// One that comes later has the same size, and is found all the same.
	if err := os.WriteFile(store+"/d", []byte("of another size"), 0o444); err != nil {
		t.Fatal(err)
	}
	if s := run(t, linker(t, store, optimise.Options{All: true}), "a", "b", "c", "d"); s.Files != 1 {
		t.Errorf("%+v", s)
	}
}
