package stack

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/image"
	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
)

// IdentifyLower finds out what tells this lower from any other, and from itself at
// another time. l says what it was given as and where its objects are; st is the open
// lower. It takes no longer when the lower is large.
func IdentifyLower(ctx context.Context, l RunLower, st store.Store) (MadeLower, error) {
	m := MadeLower{Name: l.Name, Kind: l.Kind, Given: l.Given, Real: l.Real, State: l.State}
	fail := func(err error) (MadeLower, error) {
		return m, fmt.Errorf("finding out what lower '%s' (%s) is: %w", l.Name, l.Given, err)
	}
	var err error
	if l.Kind == KindImage {
		m.Image, err = identifyImage(l.Given)
	} else if l.Kind == KindLazy {
		return m, nil // a mount is another one each time; it is told by what it was given as
	} else if m.Directory, err = identifyDirectory(l.Dir); errors.Is(err, errOverlay) {
		err = nil // then it is told by what it was given as
	}
	if err != nil {
		return fail(err)
	}
	if db, ok := store.As[interface{ DB() *nixdb.DB }](st); ok {
		if m.Database, err = lookAtDatabase(ctx, db.DB()); err != nil {
			return fail(err)
		}
	}
	return m, nil
}

// errOverlay: an overlay's inode numbers say nothing about what it shows.
var errOverlay = errors.New("an overlay has no identity of its own")

// imageHeader is how many bytes of an image are hashed: the superblock of each kind
// lies in them.
const imageHeader = 4096

func identifyImage(path string) (*ImageIdentity, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO would keep us waiting
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd) // of a block device, too
	if err != nil {
		return nil, err
	}
	head := make([]byte, imageHeader)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	h, err := image.ParseHeader(head[:n])
	if err != nil {
		return nil, fmt.Errorf("'%s': %w", path, err)
	}
	return &ImageIdentity{Type: h.Kind.String(), Bytes: size, Header: nixhash.Of(nixhash.SHA256, string(head[:n]))}, nil
}

// identifyDirectory identifies the directory of a lower's objects.
func identifyDirectory(path string) (*DirectoryIdentity, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fd := int(f.Fd())
	var sx unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO|unix.STATX_BTIME, &sx); err != nil {
		return nil, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	var sf unix.Statfs_t
	if err := unix.Fstatfs(fd, &sf); err != nil {
		return nil, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	if sf.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return nil, errOverlay
	}
	d := &DirectoryIdentity{FileSystem: fileSystem(fd, sf), Inode: sx.Ino}
	if sx.Mask&unix.STATX_BTIME != 0 {
		d.Born = sx.Btime.Sec*1e9 + int64(sx.Btime.Nsec)
	}
	return d, nil
}

// getFSUUID is FS_IOC_GETFSUUID of linux/fs.h (Linux 6.9), which fills a struct
// fsuuid2: a length and that many bytes, up to 16.
const getFSUUID = 0x80111500

// fileSystem names a file system over remounts and restarts.
func fileSystem(fd int, sf unix.Statfs_t) string {
	var u [17]byte
	//nolint:gosec // the ioctl fills 17 bytes
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), getFSUUID, uintptr(unsafe.Pointer(&u)))
	if n := int(u[0]); errno == 0 && n > 0 && n <= 16 {
		return "uuid:" + hex.EncodeToString(u[1:1+n])
	}
	if sf.Fsid.Val != [2]int32{} {
		return fmt.Sprintf("fsid:%08x%08x", uint32(sf.Fsid.Val[0]), uint32(sf.Fsid.Val[1])) //nolint:gosec // bits
	}
	return ""
}
