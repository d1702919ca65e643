package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Kind is a form in which a lower store comes.
type Kind int

const (
	Auto Kind = iota // find out from the contents
	Directory
	EROFS
	SquashFS
)

// String is also the kernel's name of the file system type.
func (k Kind) String() string {
	switch k {
	case Auto:
		return "auto"
	case Directory:
		return "directory"
	case EROFS:
		return "erofs"
	case SquashFS:
		return "squashfs"
	}
	return fmt.Sprintf("Kind(%d)", int(k))
}

var (
	// ErrUnknownFormat means that a file is no image of a known kind.
	ErrUnknownFormat = errors.New("not an EROFS or squashfs image")
	// ErrTruncated means that an image's file is shorter than its header says.
	ErrTruncated = errors.New("the image is truncated")
	// ErrUnsupported means an image of a known kind that cannot be used.
	ErrUnsupported = errors.New("unsupported image")
	// ErrPrivilege means that images cannot be mounted by this process.
	ErrPrivilege = errors.New("mounting an image needs root of the first user namespace")
)

// Error is an image or directory that cannot be shown.
type Error struct {
	Op   string // "detect", "mount"
	Path string
	Err  error // one of the sentinels above, a *mount.ConfigError, or an errno
}

func (e *Error) Error() string { return fmt.Sprintf("%s %q: %v", e.Op, e.Path, e.Err) }
func (e *Error) Unwrap() error { return e.Err }

// Header is what the start of an image says about it.
type Header struct {
	Kind Kind
	Size int64 // bytes that the image has at least; 0 for a directory
}

// Detect finds out what is at path, following symbolic links. For an image it
// reads the header and makes sure that the file is long enough for it.
func Detect(path string) (Header, error) {
	h, err := detect(path)
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return Header{}, &Error{Op: "detect", Path: path, Err: err}
	}
	return h, nil
}

func detect(path string) (Header, error) {
	// Without O_NONBLOCK a FIFO would keep us waiting for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return Header{}, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return Header{}, err
	}
	switch {
	case fi.IsDir():
		return Header{Kind: Directory}, nil
	case fi.Mode().IsRegular():
		return detectImage(f, fi.Size())
	case fi.Mode()&fs.ModeDevice != 0 && fi.Mode()&fs.ModeCharDevice == 0:
		size, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return Header{}, err
		}
		return detectImage(f, size)
	}
	return Header{}, fmt.Errorf("%w: it is %s", ErrUnknownFormat, fi.Mode().Type())
}

// headerSize is how much of a file the formats' headers lie in.
const headerSize = 2048

func detectImage(r io.ReaderAt, size int64) (Header, error) {
	head := make([]byte, headerSize)
	n, err := r.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Header{}, err
	}
	h, err := ParseHeader(head[:n])
	if err != nil {
		return Header{}, err
	}
	if size < h.Size {
		return Header{}, fmt.Errorf("%w: %s header says %d bytes, the file has %d", ErrTruncated, h.Kind, h.Size, size)
	}
	return h, nil
}

// ParseHeader reads the start of an image, of which it needs 2048 bytes.
func ParseHeader(head []byte) (Header, error) {
	switch {
	case len(head) >= erofsAt+erofsLen && binary.LittleEndian.Uint32(head[erofsAt:]) == unix.EROFS_SUPER_MAGIC_V1:
		return parseEROFS(head[erofsAt:])
	case len(head) >= squashLen && binary.LittleEndian.Uint32(head) == unix.SQUASHFS_MAGIC:
		return parseSquashFS(head)
	}
	return Header{}, fmt.Errorf("%w%s", ErrUnknownFormat, guess(head))
}

// The superblock of EROFS, struct erofs_super_block in fs/erofs/erofs_fs.h of
// Linux, 128 bytes at offset 1024, little-endian.
const (
	erofsAt         = 1024
	erofsLen        = 128
	erofsBlockBits  = 12
	erofsBlocksHigh = 14 // with feature 48bit
	erofsBlocks     = 36
	erofsIncompat   = 80
	erofsDevices    = 86
	erofsFeature48  = 0x80
)

func parseEROFS(sb []byte) (Header, error) {
	le := binary.LittleEndian
	bits := sb[erofsBlockBits]
	if bits < 9 || bits > 16 {
		return Header{}, fmt.Errorf("%w: EROFS block size of 2^%d bytes", ErrUnsupported, bits)
	}
	if n := le.Uint16(sb[erofsDevices:]); n > 0 {
		return Header{}, fmt.Errorf("%w: EROFS with %d more devices", ErrUnsupported, n)
	}
	blocks := uint64(le.Uint32(sb[erofsBlocks:]))
	if le.Uint32(sb[erofsIncompat:])&erofsFeature48 != 0 {
		blocks |= uint64(le.Uint16(sb[erofsBlocksHigh:])) << 32
	}
	if blocks > 1<<62>>bits {
		return Header{}, fmt.Errorf("%w: EROFS of %d blocks", ErrUnsupported, blocks)
	}
	return Header{Kind: EROFS, Size: int64(blocks << bits)}, nil
}

// The superblock of squashfs 4, struct squashfs_super_block in
// fs/squashfs/squashfs_fs.h of Linux, at the start, little-endian.
const (
	squashLen   = 96
	squashMajor = 28
	squashUsed  = 40
)

func parseSquashFS(sb []byte) (Header, error) {
	le := binary.LittleEndian
	if major := le.Uint16(sb[squashMajor:]); major != 4 {
		return Header{}, fmt.Errorf("%w: squashfs version %d", ErrUnsupported, major)
	}
	used := le.Uint64(sb[squashUsed:])
	if used > 1<<62 {
		return Header{}, fmt.Errorf("%w: squashfs of %d bytes", ErrUnsupported, used)
	}
	return Header{Kind: SquashFS, Size: int64(used)}, nil
}

// others are files that people give by mistake.
var others = []struct {
	at    int
	magic []byte
	name  string
}{
	{0, []byte{0x1f, 0x8b}, "a gzip file; decompress it first"},
	{0, []byte{0x28, 0xb5, 0x2f, 0xfd}, "a zstd file; decompress it first"},
	{0, []byte{0xfd, '7', 'z', 'X', 'Z'}, "an xz file; decompress it first"},
	{0, []byte("\r\x00\x00\x00\x00\x00\x00\x00nix-archive-1"), "a NAR"},
	{0, []byte("QFI\xfb"), "a qcow2 disk image"},
	{257, []byte("ustar"), "a tar archive"},
	{1080, []byte{0x53, 0xef}, "an ext4 file system"},
	{0, []byte("XFSB"), "an XFS file system"},
	{510, []byte{0x55, 0xaa}, "a disk image with partitions"},
}

func guess(head []byte) string {
	if len(head) == 0 {
		return ": it is empty"
	}
	for _, o := range others {
		if len(head) >= o.at+len(o.magic) && bytes.Equal(head[o.at:o.at+len(o.magic)], o.magic) {
			return ": it looks like " + o.name
		}
	}
	return ""
}
