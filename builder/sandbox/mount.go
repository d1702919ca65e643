package sandbox

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Kinds for ourselves.
const (
	terminals = Tmpfs + 1 + iota // pseudoterminals that nobody else has
	bare                         // Source without what is mounted in it
)

func (m Mount) String() string {
	switch m.Kind {
	case File:
		return "a file"
	case Dir:
		return "a directory"
	case Symlink:
		return "a symlink to " + m.Source
	case Tmpfs:
		return "a tmpfs"
	case terminals:
		return "pseudoterminals"
	}
	return m.Source
}

// check refuses what can have come from a mistake, such as a relative path.
func (m Mount) check() error {
	if !filepath.IsAbs(m.Target) || filepath.Clean(m.Target) != m.Target || m.Target == "/" ||
		strings.ContainsRune(m.Target, 0) {
		return fmt.Errorf("%q is no place in a sandbox, as it is not absolute or not clean", m.Target)
	}
	if m.Kind <= Own && !filepath.IsAbs(m.Source) {
		return fmt.Errorf("%q, to be shown at %s, is not an absolute path", m.Source, m.Target)
	}
	return checkSize(m.Size)
}

// checkSize wants what the option size of a tmpfs takes, and no second option.
func checkSize(s string) error {
	digits := strings.TrimRight(s, "kKmMgGtT%")
	if len(s)-len(digits) > 1 || strings.Trim(digits, "0123456789") != "" || s != "" && digits == "" {
		return fmt.Errorf("%q is not a size: it is a number, of bytes or with one of the suffixes k, m, g and %%", s)
	}
	return nil
}

// split tells apart the mounts that must be there before the sandbox stands from those
// that can come later: things from outside that lie in an Own mount, with nothing
// else between and nothing else in them. What the root covers cannot. The order stays.
func split(mounts []Mount, cover string) (early, late []Mount) {
	index := make(map[string]int, len(mounts))
	isLate := make([]bool, len(mounts))
	for i, m := range mounts {
		around, ok := encloser(index, m.Target)
		switch {
		case !ok:
		case isLate[around]:
			isLate[around] = false
		case mounts[around].Kind == Own && m.Kind < Own && !under(m.Source, cover):
			isLate[i] = true
		}
		index[m.Target] = i
	}
	for i, m := range mounts {
		if isLate[i] {
			late = append(late, m)
		} else {
			early = append(early, m)
		}
	}
	return early, late
}

// encloser finds the mount that a target lies in.
func encloser(index map[string]int, target string) (int, bool) {
	for dir := target; dir != "/"; dir = path.Dir(dir) {
		if i, ok := index[dir]; ok {
			return i, true
		}
	}
	return 0, false
}

// under tells whether a path lies in a directory, or is it.
func under(name, dir string) bool {
	rest, ok := strings.CutPrefix(name, dir)
	return ok && (rest == "" || rest[0] == '/')
}

// source is a mount that has been opened and is attached to nothing yet.
type source struct {
	Mount
	fd    int // -1: something is created and not mounted
	isDir bool
}

func (s source) close() {
	if s.fd >= 0 {
		unix.Close(s.fd)
	}
}

// open makes a mount that can be attached.
func (m Mount) open() (source, error) {
	switch m.Kind {
	case File, Dir, Symlink:
		return source{Mount: m, fd: -1}, nil
	case Tmpfs:
		options := []string{"mode=1777"}
		if m.Size != "" {
			options = append(options, "size="+m.Size)
		}
		fd, err := newFilesystem("tmpfs", options...)
		return source{m, fd, true}, err
	case terminals:
		return m.openTerminals()
	}
	return m.openOutside()
}

// openOutside opens a file or directory; a symlink becomes one that is created.
func (m Mount) openOutside() (source, error) {
	place, err := unix.Open(m.Source, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return source{}, err
	}
	defer unix.Close(place)
	var st unix.Stat_t
	if err := unix.Fstat(place, &st); err != nil {
		return source{}, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		says, err := os.Readlink(m.Source)
		return source{Mount{Kind: Symlink, Target: m.Target, Source: says}, -1, false}, err
	}
	flags := uint(unix.AT_EMPTY_PATH | unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if m.Kind != bare {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(place, "", flags)
	if err != nil {
		return source{}, fmt.Errorf("open_tree: %w", err)
	}
	src := source{m, fd, st.Mode&unix.S_IFMT == unix.S_IFDIR}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID, Propagation: unix.MS_PRIVATE}
	if !under(m.Target, "/dev") {
		attr.Attr_set |= unix.MOUNT_ATTR_NODEV
	}
	if m.Kind == ReadOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		src.close()
		return source{}, fmt.Errorf("mount_setattr: %w", err)
	}
	return src, nil
}

// openTerminals makes a file system of pseudoterminals. Some containers do not let
// that happen; those of the machine are shown then.
func (m Mount) openTerminals() (source, error) {
	fd, err := newFilesystem("devpts", "newinstance", "ptmxmode=0666", "mode=0620")
	if err == nil {
		return source{m, fd, true}, nil
	}
	if _, serr := os.Stat("/dev/pts/ptmx"); serr != nil {
		return source{}, err
	}
	return Mount{Kind: Writable, Source: "/dev/pts", Target: m.Target}.openOutside()
}

// newFilesystem makes a file system that is mounted nowhere yet.
func newFilesystem(kind string, options ...string) (int, error) {
	fs, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(fs)
	for _, o := range options {
		if name, value, ok := strings.Cut(o, "="); ok {
			err = unix.FsconfigSetString(fs, name, value)
		} else {
			err = unix.FsconfigSetFlag(fs, name)
		}
		if err != nil {
			return -1, fmt.Errorf("mount option %s: %w", o, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("create a %s: %w", kind, err)
	}
	attrs := unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	if kind == "devpts" {
		attrs = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return -1, fmt.Errorf("fsmount: %w", err)
	}
	return fd, nil
}
