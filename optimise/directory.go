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
	read    *handle // as entries are looked at
	write   *handle // as they are changed; nil until that is needed
	up      *directory
	name    string
	inside  bool // the object, and thus ours to make writable
	changed bool
}

// handle is an open directory. One costs less than an os.File.
type handle struct {
	fd   int
	name string
}

func (h *handle) close() { _ = unix.Close(h.fd) } // nothing is written to directories

func (h *handle) fail(op, name string, err error) error {
	return &os.PathError{Op: op, Path: filepath.Join(h.name, name), Err: err}
}

func openHandle(path string) (*handle, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return &handle{fd, path}, nil
}

func (h *handle) open(name string) (*handle, error) {
	fd, err := unix.Openat(h.fd, name, openDirectory, 0)
	if err != nil {
		return nil, h.fail("open", name, err)
	}
	return &handle{fd, filepath.Join(h.name, name)}, nil
}

func (h *handle) chmod(mode uint32) error {
	if err := unix.Fchmod(h.fd, mode); err != nil {
		return h.fail("chmod", "", err)
	}
	return nil
}

const openDirectory = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

func (d *directory) open(name string) (*directory, error) {
	read, err := d.read.open(name)
	if err != nil {
		return nil, err
	}
	return &directory{read: read, up: d, name: name, inside: true}, nil
}

// to gives the directory through which entries are changed. Where objects are changed at the
// place where they are looked at, that is the same.
func (d *directory) to(l *Linker) (*handle, error) {
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
		if d.write, err = up.open(d.name); err != nil {
			return nil, err
		}
	}
	return d.write, nil
}

func (d *directory) close() {
	if d.write != nil && d.write != d.read {
		d.write.close()
	}
	d.read.close()
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
		n, err := unix.Getdents(d.read.fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, d.read.fail("readdir", "", err)
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
	err := unix.Fstat(d.read.fd, &st)
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
	return to.chmod(0o755)
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
	if err := unix.UtimesNanoAt(to.fd, "", times, unix.AT_EMPTY_PATH); err != nil {
		return to.fail("utimensat", "", err)
	}
	return to.chmod(0o555)
}
