package erofs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
)

// file writes the image of a tree to a file.
func (tr tree) file(t *testing.T, path string, o Options) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := NewWriter(f, o)
	if err == nil {
		err = tr.write(w)
	}
	if err == nil {
		err = w.Close([16]byte{15: 1})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// differsOnDisk compares a directory with the tree.
func (tr tree) differsOnDisk(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(entries) != len(tr) {
		return fmt.Errorf("%s has %d entries, want %d", dir, len(entries), len(tr))
	}
	for name, v := range tr {
		path := filepath.Join(dir, name)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		mode, data := uint32(unix.S_IFREG|0o444), ""
		var got []byte
		switch v := v.(type) {
		case tree:
			mode = unix.S_IFDIR | 0o555
			err = v.differsOnDisk(path)
		case link:
			mode, data = unix.S_IFLNK|0o777, string(v)
			var target string
			target, err = os.Readlink(path)
			got = []byte(target)
		default:
			if x, ok := v.(executable); ok {
				mode, data = unix.S_IFREG|0o555, string(x)
			} else {
				data = v.(string)
			}
			got, err = os.ReadFile(path)
		}
		if err != nil {
			return err
		}
		if st.Mode != mode || string(got) != data || st.Uid != 0 || st.Gid != 0 || st.Mtim != (unix.Timespec{Sec: 1}) {
			return fmt.Errorf("%s: mode %o, owner %d:%d, time %v, %d bytes; want mode %o, %d bytes", path, st.Mode, st.Uid, st.Gid, st.Mtim, len(got), mode, len(data))
		}
	}
	return nil
}

// The kernel shows what was written, and looks names up that are in directories of
// many blocks.
func TestMounted(t *testing.T) {
	testenv.EROFSMount(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	dir := testenv.Scratch(t)
	for name, tr := range trees() {
		for _, o := range []Options{{Time: 1}, {Time: 1, Link: true}} {
			img, at := filepath.Join(dir, name+".erofs"), filepath.Join(dir, "mnt")
			tr.file(t, img, o)
			if err := os.MkdirAll(at, 0o755); err != nil {
				t.Fatal(err)
			}
			testenv.MountEROFS(t, img, at)
			err := tr.differsOnDisk(at)
			if umount := unix.Unmount(at, 0); err != nil || umount != nil {
				t.Errorf("%s: %v, %v", name, err, umount)
			}
		}
	}
}

// The format's own tool finds nothing, and extracts what was written.
func TestChecked(t *testing.T) {
	fsck := testenv.Tool(t, "fsck.erofs")
	dir := testenv.Scratch(t)
	for name, tr := range trees() {
		for i, o := range []Options{{Time: 1}, {Time: 1, Link: true}} {
			img := filepath.Join(dir, name+".erofs")
			tr.file(t, img, o)
			to := filepath.Join(dir, fmt.Sprint(name, i))
			args := []string{img}
			if slices.Contains([]string{"sizes", "modes", "deep"}, name) { // not odd names, not thousands of files
				args = []string{"--extract=" + to, "--preserve-perms", img}
			}
			if out, err := exec.Command(fsck, args...).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", name, err, out)
			} else if len(args) > 1 {
				if err := tr.differsOnDisk(to); err != nil && os.Geteuid() == 0 {
					t.Error(err)
				}
			}
		}
	}
}
