package optimise

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
)

const bufferSize = 128 << 10

// errChanged says that a file was not what it had been a moment before.
var errChanged = errors.New("it was changed meanwhile")

// file makes a file one with its link, or the link one with it if it is the first
// of its kind.
func (w *walk) file(dir *directory, name string, st *unix.Stat_t) error {
	path := filepath.Join(dir.Name(), name)
	if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&unix.S_IWUSR != 0 {
		w.opts.Warn(w.ctx, "skipping suspicious writable file '%s'", path)
		return nil
	}
	link, err := w.hash(dir, name, st)
	if err != nil {
		return pathError("hash", dir, name, err)
	}
	there, err := w.link(dir, name, link, st)
	if err != nil || there == nil || there.Ino == st.Ino {
		return err
	}
	done, err := w.replace(dir, name, link)
	if done {
		w.stats.Add(Stats{Files: 1, Bytes: uint64(st.Size)}) //nolint:gosec // sizes are not negative
		w.opts.Linked(uint64(st.Size), uint64(st.Blocks))    //nolint:gosec // likewise
	}
	return err
}

// hash is that of the archive of a file or symlink, as links are named.
func (w *walk) hash(dir *directory, name string, st *unix.Stat_t) (string, error) {
	h := nixhash.SHA256.New()
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		buf := make([]byte, st.Size+1)
		n, err := unix.Readlinkat(int(dir.Fd()), name, buf)
		if err != nil {
			return "", err
		}
		h.Write(nar.SymlinkArchive(string(buf[:n])))
		return nixhash.EncodeNix32(h.Sum(nil)), nil
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	before, after := nar.FileFrame(st.Mode&unix.S_IXUSR != 0, st.Size)
	h.Write(before)
	if err := w.contents(h, fd, st.Size); err != nil {
		return "", err
	}
	h.Write(after)
	return nixhash.EncodeNix32(h.Sum(nil)), nil
}

// contents copies a file that has the given size.
func (w *walk) contents(to io.Writer, fd int, size int64) error {
	buf := w.buffers.Get().(*[bufferSize]byte)
	defer w.buffers.Put(buf)
	for left := size; ; {
		n, err := unix.Read(fd, buf[:])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case int64(n) > left || n == 0 && left > 0:
			return errChanged
		case n == 0:
			return nil
		}
		_, _ = to.Write(buf[:n])
		left -= int64(n)
	}
}

// link finds the link with a name, or makes the file that link. nil: neither can
// be, which was told.
func (w *walk) link(dir *directory, name, link string, file *unix.Stat_t) (*unix.Stat_t, error) {
	links := int(w.links.Fd())
	for range 3 { // others link, and collect what is linked no more, at the same time
		var st unix.Stat_t
		err := unix.Fstatat(links, link, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil {
			if bad, err := w.damaged(link, &st, file); err != nil || !bad {
				return &st, err
			}
			if err := unix.Unlinkat(links, link, 0); err != nil && err != unix.ENOENT {
				return nil, pathError("unlink", w.links, link, err)
			}
		} else if err != unix.ENOENT {
			return nil, pathError("lstat", w.links, link, err)
		}
		switch err := unix.Linkat(int(dir.Fd()), name, links, link, 0); err {
		case nil:
			return file, nil
		case unix.EEXIST:
		case unix.ENOSPC, unix.EMLINK:
			// ENOSPC: the directory's index may be full. Then this file stays alone.
			w.opts.Warn(w.ctx, "cannot link '%s' to '%s': %v", filepath.Join(w.links.Name(), link), filepath.Join(dir.Name(), name), err)
			return nil, nil //nolint:nilnil // see above
		default:
			return nil, pathError("link", w.links, link, err)
		}
	}
	return nil, nil //nolint:nilnil // somebody is quicker, and saves the space
}

// damaged tells that a link is not what its name says.
func (w *walk) damaged(link string, st, file *unix.Stat_t) (bool, error) {
	bad := st.Size != file.Size || st.Mode&unix.S_IFMT != file.Mode&unix.S_IFMT
	if !bad && w.opts.Repair {
		hash, err := w.hash(&directory{File: w.links}, link, st)
		if err != nil {
			return false, pathError("hash", w.links, link, err)
		}
		bad = hash != link
	}
	if bad {
		w.opts.Warn(w.ctx, "removing corrupted link '%s'", filepath.Join(w.links.Name(), link))
		w.opts.Warn(w.ctx, "There may be more corrupted paths.\nYou should run `nix-store --verify --check-contents --repair` to fix them all")
	}
	return bad, nil
}

// replace puts a link in the place of a file, and tells whether it did.
func (w *walk) replace(dir *directory, name, link string) (bool, error) {
	store := int(w.store.Fd())
	temp := fmt.Sprintf(".tmp-link-%d-%d", os.Getpid(), w.names.Add(1))
	switch err := unix.Linkat(int(w.links.Fd()), link, store, temp, 0); err {
	case nil:
	case unix.EMLINK, unix.ENOENT:
		return false, nil // as many as there can be; or just collected
	default:
		return false, pathError("link", w.store, temp, err)
	}
	// A rename does nothing if the two are one already.
	defer func() { _ = unix.Unlinkat(store, temp, 0) }()
	for tries := 1; ; tries++ {
		if err := dir.unseal(); err != nil {
			return false, err
		}
		dir.changed = true
		switch err := unix.Renameat(store, temp, int(dir.Fd()), name); {
		case err == nil:
			return true, nil
		case err == unix.EMLINK:
			return false, nil // some file systems find out only now
		case err == unix.EACCES && tries < 5:
			// Another run, over the same object, has just sealed the directory.
		default:
			return false, pathError("replace", dir, name, err)
		}
	}
}
