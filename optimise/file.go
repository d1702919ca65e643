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
		w.opts.Warn(w.ctx, "skipping suspicious writable file '%s'", filepath.Join(dir.read.name, name))
		return nil
	}
	link, err := w.hash(dir.read.fd, name, st)
	if err != nil {
		return dir.read.fail("hash", name, err)
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
		err := unix.Fstatat(w.known.fd, link, &there, unix.AT_SYMLINK_NOFOLLOW)
		switch {
		case err == nil && there.Size == st.Size:
			first = there.Ino
		case err != nil && !errors.Is(err, unix.ENOENT):
			return w.known.fail("lstat", link, err)
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
	from, err := dir.to(w.Linker)
	if err != nil {
		return nil, err
	}
	for range 3 { // others link, and collect what is linked no more, at the same time
		switch err := unix.Linkat(from.fd, name, w.links.fd, link, 0); {
		case err == nil:
			crashpoint.Reached("optimise: first of its kind linked")
			return file, nil
		case errors.Is(err, unix.EEXIST):
		case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EMLINK):
			// ENOSPC: the directory's index may be full. Then this file stays alone, if it is
			// the first.
			if there, err := w.there(link, file); there != nil || err != nil {
				return there, err
			}
			w.opts.Warn(w.ctx, "cannot link '%s' to '%s': %v", filepath.Join(w.links.name, link), filepath.Join(from.name, name), err)
			return nil, nil //nolint:nilnil // see above
		default:
			return nil, w.links.fail("link", link, err)
		}
		if there, err := w.there(link, file); there != nil || err != nil {
			return there, err
		}
	}
	return nil, nil //nolint:nilnil // somebody is quicker, and saves the space
}

// there looks at the link with a name. nil: there is none, or none any more since it
// was not what its name says.
func (w *walk) there(link string, file *unix.Stat_t) (*unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Fstatat(w.known.fd, link, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil //nolint:nilnil // see above
	}
	if err != nil {
		return nil, w.known.fail("lstat", link, err)
	}
	if bad, err := w.damaged(link, &st, file); err != nil || !bad {
		return &st, err
	}
	if err := unix.Unlinkat(w.links.fd, link, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, w.links.fail("unlink", link, err)
	}
	return nil, nil //nolint:nilnil // see above
}

// damaged tells that a link is not what its name says.
func (w *walk) damaged(link string, st, file *unix.Stat_t) (bool, error) {
	bad := st.Size != file.Size || st.Mode&unix.S_IFMT != file.Mode&unix.S_IFMT
	if !bad && w.opts.Repair {
		hash, err := w.hash(w.known.fd, link, st)
		if err != nil {
			return false, w.known.fail("hash", link, err)
		}
		bad = hash != link
	}
	if bad {
		w.opts.Warn(w.ctx, "removing corrupted link '%s'", filepath.Join(w.links.name, link))
		w.opts.Warn(w.ctx, "There may be more corrupted paths.\nYou should run `nix-store --verify --check-contents --repair` to fix them all")
	}
	return bad, nil
}
