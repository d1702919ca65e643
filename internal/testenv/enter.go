package testenv

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// An enterSpec tells the helper process how to make the file system view of a
// command. It travels as JSON in the helper's first argument.
type enterSpec struct {
	Tree  string // root directory of a Debian system, shown read-only
	Binds []bind // shown after that, in this order
	UID   int    // who runs the command; 0 stays what it is
}

// A bind shows Src of the outside at Dst.
type bind struct {
	Src, Dst string
	ReadOnly bool
}

// treeDirs are the top directories of the tree that are shown. The others
// (home, nix, root, tmp, var, …) are empty, writable, and private to the command.
var treeDirs = []string{"usr", "etc", "bin", "lib", "lib32", "lib64", "libx32", "sbin"}

// enter runs in a fresh mount namespace as root of it: it makes a new root out
// of the spec, moves there and becomes the command.
//
// The new root is reached by pivot_root and not by chroot, because the kernel
// refuses user namespaces, which Nix's and our sandboxes want, in a chroot.
func enter(args []string) error {
	// The signal of a dying parent is asked for by, and the exec done from, one thread.
	runtime.LockOSThread()
	if len(args) < 2 {
		return errors.New("want a spec and a command")
	}
	var spec enterSpec
	if err := json.Unmarshal([]byte(args[0]), &spec); err != nil {
		return fmt.Errorf("spec: %w", err)
	}
	wd, err := os.Getwd()
	if err != nil {
		return err
	}
	if err := noPropagation(); err != nil {
		return err
	}
	if err := spec.makeRoot(); err != nil {
		return err
	}
	if err := os.Chdir(wd); err != nil {
		return fmt.Errorf("the working directory is not shown inside: %w", err)
	}
	if err := becomeUser(spec.UID); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("prctl: %w", err)
	}
	path, err := exec.LookPath(args[1])
	if err != nil {
		return err
	}
	return &fs.PathError{Op: "exec", Path: path, Err: unix.Exec(path, args[1:], os.Environ())}
}

// makeRoot builds the new root and pivots into it.
func (s *enterSpec) makeRoot() error {
	binds, links, err := s.treeBinds()
	if err != nil {
		return err
	}
	for _, dir := range []string{"/proc", "/dev", "/sys"} {
		binds = append(binds, bind{Src: dir, Dst: dir})
	}
	binds = append(binds, s.Binds...)
	// Sources are opened before anything is covered by the new root.
	fds := make([]int, len(binds))
	for i, b := range binds {
		if fds[i], err = b.open(); err != nil {
			return err
		}
	}
	root := s.Tree // any directory will do: it is only covered
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount the new root: %w", err)
	}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			return err
		}
	}
	for _, dir := range []string{"tmp", "var/tmp"} {
		if err := makeShared(filepath.Join(root, dir)); err != nil {
			return err
		}
	}
	for _, dir := range []string{"root", "home", "run", "var/lib", "var/log"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	for i, b := range binds {
		if err := b.attach(fds[i], root); err != nil {
			return err
		}
	}
	return pivot(root)
}

// treeBinds splits the top of the tree into directories to show and symlinks
// (bin to usr/bin and so on) to repeat.
func (s *enterSpec) treeBinds() (binds []bind, links map[string]string, err error) {
	links = make(map[string]string)
	for _, name := range treeDirs {
		path := filepath.Join(s.Tree, name)
		fi, err := os.Lstat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, nil, err
		case fi.IsDir():
			binds = append(binds, bind{Src: path, Dst: "/" + name, ReadOnly: true})
		default:
			if links[name], err = os.Readlink(path); err != nil {
				return nil, nil, err
			}
		}
	}
	return binds, links, nil
}

// open makes a detached copy of the mounts at the source.
func (b bind) open() (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, b.Src, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return -1, fmt.Errorf("copy the mounts at %s: %w", b.Src, err)
	}
	if b.ReadOnly {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
			return -1, fmt.Errorf("make %s read-only: %w", b.Src, err)
		}
	}
	return fd, nil
}

// attach shows what open returned at its place below root.
func (b bind) attach(fd int, root string) error {
	dst := filepath.Join(root, b.Dst)
	fi, err := os.Stat(b.procPath(fd))
	if err != nil {
		return fmt.Errorf("%s: %w", b.Src, err)
	}
	if _, err := os.Lstat(dst); errors.Is(err, fs.ErrNotExist) {
		if fi.IsDir() {
			err = os.MkdirAll(dst, 0o755)
		} else if err = os.MkdirAll(filepath.Dir(dst), 0o755); err == nil {
			err = os.WriteFile(dst, nil, 0o644)
		}
		if err != nil {
			return fmt.Errorf("a place to show %s: %w", b.Src, err)
		}
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, dst, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("show %s at %s: %w", b.Src, b.Dst, err)
	}
	return unix.Close(fd)
}

func (b bind) procPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// pivot makes root the root directory and lets go of the old one.
func pivot(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the old root: %w", err)
	}
	return os.Chdir("/")
}

func makeShared(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o777|fs.ModeSticky)
}

// becomeUser drops root for an ordinary user of the same number as his group.
func becomeUser(uid int) error {
	if uid == 0 {
		return nil
	}
	if err := unix.Setgroups(nil); err != nil {
		return fmt.Errorf("setgroups: %w", err)
	}
	if err := unix.Setresgid(uid, uid, uid); err != nil {
		return fmt.Errorf("setgid %d: %w", uid, err)
	}
	if err := unix.Setresuid(uid, uid, uid); err != nil {
		return fmt.Errorf("setuid %d: %w", uid, err)
	}
	return nil
}
