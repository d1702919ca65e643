package enter

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Root sees to it that places, which are absolute paths, are directories that can be
// mounted on. If they are already nothing happens. Otherwise the process gets
// another root: an empty file system in memory with all that is in the present one bound
// to it, and with the places. The process must be in a mount namespace of its own.
//
// What is mounted outside afterwards is not seen inside.
func Root(places ...string) error {
	var missing [][]string
	for _, p := range places {
		if !isPlain(p) {
			missing = append(missing, components(p))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	r := new(root)
	defer r.close()
	if err := r.plan("/", missing); err != nil {
		return err
	}
	if err := r.build(); err != nil {
		return err
	}
	return r.turn()
}

func components(path string) []string {
	return strings.FieldsFunc(filepath.Clean(path), func(c rune) bool { return c == '/' })
}

// isPlain tells whether a path is a directory with no symlink on the way to it, which
// Nix demands of its store.
func isPlain(path string) bool {
	for dir := path; dir != "/"; dir = filepath.Dir(dir) {
		if st, err := os.Lstat(dir); err != nil || !st.IsDir() {
			return false
		}
	}
	return true
}

// root is a root directory in the making.
type root struct {
	entries []entry
	fd      int // the new root
}

// entry is something in the new root.
type entry struct {
	path string // from the root on, "usr"
	tree int    // a detached copy of what is there now; -1: there is only a directory, or a symlink
	dir  bool
	link string
}

func (r *root) close() {
	for _, e := range r.entries {
		if e.tree >= 0 {
			unix.Close(e.tree)
		}
	}
	if r.fd > 0 {
		unix.Close(r.fd)
	}
}

// plan decides what is to be in a directory: what there is now, and what is missing
// below it, whose parents are made anew.
func (r *root) plan(dir string, missing [][]string) error {
	below := make(map[string][][]string)
	for _, m := range missing {
		below[m[0]] = append(below[m[0]], m[1:])
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("look at what is to be in the new root: %w", err)
	}
	for _, e := range entries {
		if _, remade := below[e.Name()]; remade {
			continue
		}
		if err := r.keep(filepath.Join(dir, e.Name()), e); err != nil {
			return err
		}
	}
	for name, rest := range below {
		path := filepath.Join(dir, name)
		r.entries = append(r.entries, entry{path: path[1:], tree: -1, dir: true})
		var further [][]string
		for _, m := range rest {
			if len(m) > 0 {
				further = append(further, m)
			}
		}
		// A symlink in the way is not followed: nothing of where it leads is kept.
		if st, err := os.Lstat(path); len(further) > 0 && (err != nil || st.IsDir()) {
			err = r.plan(path, further)
			if err != nil {
				return err
			}
		} else if len(further) > 0 {
			r.make(path, further)
		}
	}
	return nil
}

// make adds directories of which nothing is there.
func (r *root) make(dir string, missing [][]string) {
	for _, m := range missing {
		path := dir
		for _, name := range m {
			path = filepath.Join(path, name)
			r.entries = append(r.entries, entry{path: path[1:], tree: -1, dir: true})
		}
	}
}

// keep takes what is there now along. What this user cannot reach is left out.
func (r *root) keep(path string, e fs.DirEntry) error {
	if e.Type()&fs.ModeSymlink != 0 {
		to, err := os.Readlink(path)
		if err == nil {
			r.entries = append(r.entries, entry{path: path[1:], tree: -1, link: to})
		}
		return err
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE|unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err == nil:
		r.entries = append(r.entries, entry{path: path[1:], tree: tree, dir: e.IsDir()})
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTCONN):
	default:
		return fmt.Errorf("take '%s' along to the new root: %w", path, err)
	}
	return nil
}

// stages are directories one of which the new root is mounted on before it is the
// root.
var stages = []string{"/tmp", "/mnt", "/run", "/proc"}

// build makes the new root.
func (r *root) build() error {
	fd, err := newTmpfs()
	if err != nil {
		return fmt.Errorf("make a file system for the new root: %w", err)
	}
	r.fd = fd
	err = unix.ENOENT
	for _, stage := range stages {
		if err = unix.MoveMount(fd, "", unix.AT_FDCWD, stage, unix.MOVE_MOUNT_F_EMPTY_PATH); !errors.Is(err, unix.ENOENT) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("mount the new root: %w", err)
	}
	for _, e := range r.entries {
		if err := r.put(e); err != nil {
			return fmt.Errorf("put '/%s' into the new root: %w", e.path, err)
		}
	}
	// What is written to / would be lost without a word.
	readOnly := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &readOnly); err != nil {
		return fmt.Errorf("make the new root read-only: %w", err)
	}
	return nil
}

func newTmpfs() (int, error) {
	c, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(c)
	for _, o := range [][2]string{{"source", "strata"}, {"mode", "0755"}, {"size", "1m"}} {
		if err := unix.FsconfigSetString(c, o[0], o[1]); err != nil {
			return -1, fmt.Errorf("fsconfig: %w", err)
		}
	}
	if err := unix.FsconfigCreate(c); err != nil {
		return -1, fmt.Errorf("fsconfig: %w", err)
	}
	fd, err := unix.Fsmount(c, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return -1, fmt.Errorf("fsmount: %w", err)
	}
	return fd, nil
}

// put makes one entry. Nothing in the new root leads out of it.
func (r *root) put(e entry) error {
	switch {
	case e.link != "":
		return unix.Symlinkat(e.link, r.fd, e.path)
	case e.dir:
		if err := unix.Mkdirat(r.fd, e.path, 0o755); err != nil && (e.tree >= 0 || !errors.Is(err, unix.EEXIST)) {
			return err
		}
	default:
		fd, err := unix.Openat(r.fd, e.path, unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC|unix.O_WRONLY, 0o444)
		if err != nil {
			return err
		}
		unix.Close(fd)
	}
	if e.tree < 0 {
		return nil
	}
	return unix.MoveMount(e.tree, "", r.fd, e.path, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// turn makes it the root. The working directory stays the same by its name.
func (r *root) turn() error {
	cwd, err := os.Getwd()
	if err != nil {
		cwd = "/"
	}
	old, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(old)
	if err := unix.Fchdir(r.fd); err != nil {
		return err
	}
	// Both at one place: the old root lies over the new one for a moment.
	if err := unix.PivotRoot(".", "."); err != nil {
		if errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("change to the new root: %w: the present one is no mount of its own, as in a chroot or an initramfs", err)
		}
		return fmt.Errorf("change to the new root: %w", err)
	}
	if err := unix.Fchdir(old); err != nil {
		return err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("take the old root away: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	_ = os.Chdir(cwd) // or it stays "/", if it was what is made anew
	return nil
}
