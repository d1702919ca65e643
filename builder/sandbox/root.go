package sandbox

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// covers are directories one of which is covered by the root of the sandbox, in
// the keeper's mount namespace and nowhere else: one that everybody may enter
// and in which no store lies. bwrap covers /tmp after it.
var covers = []string{"/sys", "/mnt", "/tmp"}

// A root is the root directory of a sandbox while it is put together. All work
// in it goes through file descriptors and never leaves it by a symlink.
type root struct {
	fd    int    // a tmpfs
	cover string // where it is mounted
	// homely are the mounts in which places for others are created: the root, and
	// what belongs to the build.
	homely map[uint64]bool
	owner  *[2]int // who gets what is created; nil: it stays the keeper's

	lastDir string // the directory that was opened last, for many mounts in one
	lastFD  int
}

// newRoot makes the root and all mounts but the late ones, which it returns.
//
// Those lie in Own mounts, which are shared with the sandbox, and can be shown when
// it stands already. That is so because the time that bwrap takes grows with the
// square of the number of mounts: a closure of 3000 paths would take 0.2 s, here
// it takes 0.04 s. It is also how paths are shown to a builder that runs.
func newRoot(s *keeperSpec) (*root, []Mount, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return nil, nil, &SetupError{Step: "keep mounts apart", Err: err}
	}
	r := &root{fd: -1, cover: chooseCover(), homely: make(map[uint64]bool), lastFD: -1}
	early, late := split(s.mounts(), r.cover)
	// All is opened before the root covers something.
	opened := make([]source, 0, len(early))
	for _, m := range early {
		src, err := m.open()
		if errors.Is(err, os.ErrNotExist) && m.Optional {
			continue
		}
		if err != nil {
			return nil, nil, &SetupError{Step: "open " + m.Source + " for " + m.Target, Err: err}
		}
		opened = append(opened, src)
	}
	if err := r.mountOver(s); err != nil {
		return nil, nil, &SetupError{Step: "mount a tmpfs for the root", Err: err}
	}
	for _, src := range opened {
		if err := r.attach(src); err != nil {
			return nil, nil, err
		}
	}
	if r.owner != nil {
		return r, late, nil
	}
	// The user who builds may own it, and must not write to it all the same.
	readOnly := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(r.fd, "", unix.AT_EMPTY_PATH, &readOnly); err != nil {
		return nil, nil, &SetupError{Step: "make the root read-only", Err: err}
	}
	return r, late, nil
}

// close closes the root, which goes on to exist where it is mounted.
func (r *root) close() {
	for _, fd := range []int{r.fd, r.lastFD} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// chooseCover takes the first that is there.
func chooseCover() string {
	for _, dir := range covers {
		if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
			return dir
		}
	}
	return covers[0]
}

// mountOver mounts an empty root over the cover.
func (r *root) mountOver(s *keeperSpec) (err error) {
	options := []string{"mode=0755"}
	if s.Count > 1 { // root of a range of ids is master of this place
		r.owner = &[2]int{int(s.UID), int(s.GID)}
		options = append(options, fmt.Sprintf("uid=%d", s.UID), fmt.Sprintf("gid=%d", s.GID))
	}
	if r.fd, err = newFilesystem("tmpfs", options...); err != nil {
		return err
	}
	if err := unix.MoveMount(r.fd, "", unix.AT_FDCWD, r.cover, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("on %s: %w", r.cover, err)
	}
	return r.welcome(r.fd)
}

// attach puts a mount, or what is to be created, in its place.
func (r *root) attach(src source) error {
	defer src.close()
	dir, name, err := r.parent(src.Target)
	switch {
	case err != nil:
	case src.fd < 0:
		err = r.create(dir, name, src.Mount)
	default:
		err = r.mount(dir, name, src)
	}
	if err != nil {
		return &SetupError{Step: fmt.Sprintf("show %s at %s", src.Mount, src.Target), Err: err}
	}
	return nil
}

// mount attaches a mount at its place, which is made if need be.
func (r *root) mount(dir int, name string, src source) error {
	place, err := r.place(dir, name, src.isDir)
	if err != nil {
		return err
	}
	defer unix.Close(place)
	if err := unix.MoveMount(src.fd, "", place, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	switch src.Kind {
	case Tmpfs:
		return r.welcome(src.fd)
	case Own:
		// What is attached in it later shows in the sandbox, whose copy becomes a slave.
		shared := unix.MountAttr{Propagation: unix.MS_SHARED}
		if err := unix.MountSetattr(src.fd, "", unix.AT_EMPTY_PATH, &shared); err != nil {
			return fmt.Errorf("share it: %w", err)
		}
		return r.welcome(src.fd)
	}
	return nil
}

// show makes a mount visible in the sandbox that stands. The builder may be at
// work in the directory meanwhile; symlinks of his are not followed.
func (r *root) show(m Mount) error {
	src, err := m.open()
	if errors.Is(err, os.ErrNotExist) && m.Optional {
		return nil
	}
	if err != nil {
		return &SetupError{Step: "open " + m.Source + " for " + m.Target, Err: err}
	}
	return r.attach(src)
}
