package optimise

import (
	"cmp"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// directory is one on the way.
type directory struct {
	read    *os.File // as entries are looked at
	write   *os.File // as they are changed; nil until that is needed
	up      *directory
	name    string
	inside  bool // the object, and thus ours to make writable
	changed bool
}

func (d *directory) fd() int { return int(d.read.Fd()) }

func (d *directory) fail(op, name string, err error) error {
	return &os.PathError{Op: op, Path: filepath.Join(d.read.Name(), name), Err: err}
}

const openDirectory = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

func (d *directory) open(name string) (*directory, error) {
	fd, err := unix.Openat(d.fd(), name, openDirectory, 0)
	if err != nil {
		return nil, d.fail("open", name, err)
	}
	return &directory{read: os.NewFile(uintptr(fd), filepath.Join(d.read.Name(), name)), up: d, name: name, inside: true}, nil
}

// to gives the directory through which entries are changed. Where objects are changed at the
// place where they are looked at, that is the same.
func (d *directory) to(l *Linker) (*os.File, error) {
	switch {
	case d.write != nil:
	case d.up == nil:
		d.write = l.store
	case l.opts.Layer == "":
		d.write = d.read
	default:
		up, err := d.up.to(l)
		if err != nil {
			return nil, err
		}
		fd, err := unix.Openat(int(up.Fd()), d.name, openDirectory, 0)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: filepath.Join(up.Name(), d.name), Err: err}
		}
		d.write = os.NewFile(uintptr(fd), filepath.Join(up.Name(), d.name))
	}
	return d.write, nil
}

func (d *directory) close() {
	if d.write != nil && d.write != d.read {
		_ = d.write.Close() // nothing is written to directories
	}
	_ = d.read.Close()
}

// entry is a name in a directory.
type entry struct {
	name  string
	inode uint64
	kind  byte // DT_…; DT_UNKNOWN if it has to be looked at
}

// entries gives those of a directory in the order of their inodes, in which they lie on
// disk.
func (d *directory) entries() ([]entry, error) {
	var all []entry
	buf := make([]byte, 16<<10)
	for {
		n, err := unix.Getdents(d.fd(), buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, d.fail("readdir", "", err)
		}
		if n <= 0 {
			break
		}
		// struct linux_dirent64: inode, offset, length at 16, type at 18, name.
		for b := buf[:n]; len(b) > 19; {
			size := int(binary.NativeEndian.Uint16(b[16:]))
			name := b[19:size]
			name = name[:max(slices.Index(name, 0), 0)]
			if s := string(name); s != "." && s != ".." {
				all = append(all, entry{s, binary.NativeEndian.Uint64(b), b[18]})
			}
			b = b[size:]
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return cmp.Compare(a.inode, b.inode) })
	return all, nil
}

// writable tells whether the directory can be written to by its mode.
func (d *directory) writable() (bool, error) {
	var st unix.Stat_t
	err := unix.Fstat(d.fd(), &st)
	return st.Mode&unix.S_IWUSR != 0, err
}

// unseal makes a directory of an object writable.
func (d *directory) unseal(l *Linker) error {
	if ok, err := d.writable(); ok || err != nil || !d.inside {
		return err
	}
	to, err := d.to(l)
	if err != nil {
		return err
	}
	return to.Chmod(0o755)
}

// seal gives a directory that was changed, by us or by one that was killed, the
// mode and time that everything in a store has.
func (d *directory) seal(l *Linker) error {
	if ok, err := d.writable(); err != nil || !ok && !d.changed {
		return err
	}
	to, err := d.to(l)
	if err != nil {
		return err
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: 1}}
	if err := unix.UtimesNanoAt(int(to.Fd()), "", times, unix.AT_EMPTY_PATH); err != nil {
		return d.fail("utimensat", "", err)
	}
	return to.Chmod(0o555)
}
