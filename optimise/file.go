package optimise

import (
	"errors"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
)

const bufferSize = 128 << 10

// errChanged says that a file was not what it had been a moment before.
var errChanged = errors.New("it was changed meanwhile")

// file makes a file one with its link, or the link one with it if it is the first
// of its kind.
func (w *walk) file(dir *directory, name string, st *unix.Stat_t) error {
	if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&unix.S_IWUSR != 0 {
		w.opts.Warn(w.ctx, "skipping suspicious writable file '%s'", filepath.Join(dir.read.Name(), name))
		return nil
	}
	link, err := w.hash(dir.fd(), name, st)
	if err != nil {
		return dir.fail("hash", name, err)
	}
	if w.opts.DryRun {
		return w.imagine(link, st)
	}
	there, err := w.link(dir, name, link, st)
	if err != nil || there == nil || there.Ino == st.Ino {
		return err
	}
	if w.opts.Reflink == Always {
		return w.share(dir, name, link, st)
	}
	done, err := w.replace(dir, name, link)
	if err == nil && !done && w.opts.Reflink == Auto {
		return w.share(dir, name, link, st)
	}
	if done {
		w.counted(Stats{Files: 1, Bytes: given(st)}, st)
	}
	return err
}

// given is what the disk gets back when one name of a file goes.
func given(st *unix.Stat_t) uint64 {
	if st.Nlink > 1 {
		return 0
	}
	return uint64(st.Blocks) * 512 //nolint:gosec // a count
}

// counted takes notice of a file that was dealt with.
func (w *walk) counted(s Stats, st *unix.Stat_t) {
	w.count(s)
	w.opts.Linked(uint64(st.Size), uint64(st.Blocks)) //nolint:gosec // sizes are not negative
}

// imagine counts a file that would be replaced.
func (w *walk) imagine(link string, st *unix.Stat_t) error {
	first := st.Ino
	if w.known != nil {
		var there unix.Stat_t
		err := unix.Fstatat(int(w.known.Fd()), link, &there, unix.AT_SYMLINK_NOFOLLOW)
		switch {
		case err == nil && there.Size == st.Size:
			first = there.Ino
		case err != nil && !errors.Is(err, unix.ENOENT):
			return pathError("lstat", w.known, link, err)
		}
	}
	if first == st.Ino {
		first = w.firsts.meet(link, st.Ino)
	}
	switch {
	case first == st.Ino:
	case w.opts.Reflink == Always && st.Mode&unix.S_IFMT == unix.S_IFREG:
		w.counted(Stats{Shared: 1, Bytes: uint64(st.Blocks) * 512}, st) //nolint:gosec // a count
	case w.opts.Reflink != Always:
		w.counted(Stats{Files: 1, Bytes: given(st)}, st)
	}
	return nil
}

// hash is that of the archive of a file or symlink, as links are named.
func (w *walk) hash(dir int, name string, st *unix.Stat_t) (string, error) {
	h := nixhash.SHA256.New()
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		buf := make([]byte, st.Size+1)
		n, err := unix.Readlinkat(dir, name, buf)
		if err != nil {
			return "", err
		}
		h.Write(nar.SymlinkArchive(string(buf[:n])))
		return nixhash.EncodeNix32(h.Sum(nil)), nil
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
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
func (w *walk) contents(to interface{ Write([]byte) (int, error) }, fd int, size int64) error {
	buf := w.buffers.Get().(*[bufferSize]byte)
	defer w.buffers.Put(buf)
	for left := size; ; {
		n, err := unix.Read(fd, buf[:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case int64(n) > left || n == 0 && left > 0:
			return errChanged
		}
		_, _ = to.Write(buf[:n])
		left -= int64(n)
		if left == 0 && n < len(buf) { // less than there was room for: the end
			return nil
		}
	}
}

// link finds the link with a name, or makes the file that link. nil: neither can
// be, which was told.
func (w *walk) link(dir *directory, name, link string, file *unix.Stat_t) (*unix.Stat_t, error) {
	for range 3 { // others link, and collect what is linked no more, at the same time
		var st unix.Stat_t
		err := unix.Fstatat(int(w.known.Fd()), link, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil {
			if bad, err := w.damaged(link, &st, file); err != nil || !bad {
				return &st, err
			}
			if err := unix.Unlinkat(int(w.links.Fd()), link, 0); err != nil && !errors.Is(err, unix.ENOENT) {
				return nil, pathError("unlink", w.links, link, err)
			}
		} else if !errors.Is(err, unix.ENOENT) {
			return nil, pathError("lstat", w.known, link, err)
		}
		from, err := dir.to(w.Linker)
		if err != nil {
			return nil, err
		}
		switch err := unix.Linkat(int(from.Fd()), name, int(w.links.Fd()), link, 0); {
		case err == nil:
			crashpoint.Reached("optimise: first of its kind linked")
			return file, nil
		case errors.Is(err, unix.EEXIST):
		case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EMLINK):
			// ENOSPC: the directory's index may be full. Then this file stays alone.
			w.opts.Warn(w.ctx, "cannot link '%s' to '%s': %v", filepath.Join(w.links.Name(), link), filepath.Join(from.Name(), name), err)
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
		hash, err := w.hash(int(w.known.Fd()), link, st)
		if err != nil {
			return false, pathError("hash", w.known, link, err)
		}
		bad = hash != link
	}
	if bad {
		w.opts.Warn(w.ctx, "removing corrupted link '%s'", filepath.Join(w.links.Name(), link))
		w.opts.Warn(w.ctx, "There may be more corrupted paths.\nYou should run `nix-store --verify --check-contents --repair` to fix them all")
	}
	return bad, nil
}
