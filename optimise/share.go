package optimise

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrNoSharing says that files of a file system cannot share blocks.
var ErrNoSharing = errors.New("the file system cannot share blocks between files")

// minShared is the smallest file that is worth it: less than a block has none to share.
const minShared = 4096

// share lets a file share the blocks of its link. The kernel compares them, so that it does not
// matter what happens to either meanwhile. Files are opened where they are: nothing that an
// overlay shows changes.
func (w *walk) share(dir *directory, name, link string, st *unix.Stat_t) error {
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size < minShared {
		return nil
	}
	const flags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	from, err := unix.Openat(w.known.fd, link, flags, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil // just collected
	}
	if err != nil {
		return w.known.fail("open", link, err)
	}
	defer unix.Close(from)
	to, err := unix.Openat(dir.read.fd, name, flags, 0)
	if err != nil {
		return dir.read.fail("open", name, err)
	}
	defer unix.Close(to)
	if alike, err := sameExtents(from, to); alike || err != nil {
		return w.cannotShare(dir, name, err)
	}
	bytes, err := dedupe(from, to, st.Size)
	if bytes > 0 {
		w.counted(Stats{Shared: 1, Bytes: uint64(bytes)}, st)
	}
	return w.cannotShare(dir, name, err)
}

// cannotShare decides what an error of sharing means.
func (w *walk) cannotShare(dir *directory, name string, err error) error {
	unable := errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.ENOSYS)
	switch {
	case err == nil, unable && w.opts.Reflink == Auto:
		return nil
	case unable:
		return fmt.Errorf("'%s': %w", w.objects.name, ErrNoSharing)
	case errors.Is(err, unix.EINVAL):
		return nil // such a file cannot; it may be so small that it lies in the metadata
	}
	return dir.read.fail("share", name, err)
}

// dedupe shares as much as the kernel finds equal, and gives how many bytes that were.
func dedupe(from, to int, size int64) (done int64, err error) {
	const most = 16 << 20 // at a time, on most file systems
	for done < size {
		r := unix.FileDedupeRange{
			Src_offset: uint64(done), Src_length: uint64(min(size-done, most)), //nolint:gosec // not negative
			Info: []unix.FileDedupeRangeInfo{{Dest_fd: int64(to), Dest_offset: uint64(done)}}, //nolint:gosec // not negative
		}
		if err := unix.IoctlFileDedupeRange(from, &r); err != nil {
			return done, err
		}
		switch got := r.Info[0]; {
		case got.Status < 0:
			return done, unix.Errno(-got.Status)
		case got.Status == unix.FILE_DEDUPE_RANGE_DIFFERS:
			return done, errChanged
		case got.Bytes_deduped == 0:
			return done, nil
		default:
			done += int64(got.Bytes_deduped) //nolint:gosec // at most what was asked for
		}
	}
	return done, nil
}

// extents is struct fiemap of linux/fiemap.h with room for some extents.
type extents struct {
	start, length        uint64
	flags, mapped, count uint32
	_                    uint32
	extent               [32]extent
}

type extent struct {
	logical, physical, length uint64
	_                         [2]uint64
	flags                     uint32
	_                         [3]uint32
}

// fiemap is FS_IOC_FIEMAP of linux/fs.h.
const fiemap = 0xC020660B

// sameExtents tells that two files have the same blocks already. Of one in very many pieces it
// looks at the first ones.
func sameExtents(a, b int) (bool, error) {
	var of [2]extents
	for i, fd := range []int{a, b} {
		of[i].length, of[i].count = ^uint64(0), uint32(len(of[i].extent))
		of[i].flags = 1 // FIEMAP_FLAG_SYNC: what is not on disk yet has no place
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), fiemap, uintptr(unsafe.Pointer(&of[i]))); errno != 0 {
			return false, errno
		}
	}
	x, y := of[0].extent[:of[0].mapped], of[1].extent[:of[1].mapped]
	return len(x) > 0 && slices.EqualFunc(x, y, func(p, q extent) bool { return p.physical == q.physical && p.logical == q.logical }), nil
}
