package gc

import (
	"bytes"
	"encoding/binary"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dirent is an entry of a directory as the kernel tells it. The name is part of the
// buffer that it was read into.
type dirent struct {
	name []byte
	ino  uint64
	kind uint8 // unix.DT_*, which some file systems leave at DT_UNKNOWN
}

// direntBuffer is how much of a directory is read at a time.
const direntBuffer = 64 << 10

// readDirents calls f for the entries of an open directory, but for "." and "..",
// in no order and in memory that does not depend on how many there are. An error of
// f ends it. buf is used for the work; nil: one is made.
func readDirents(fd int, buf []byte, f func(dirent) error) error {
	if buf == nil {
		buf = make([]byte, direntBuffer)
	}
	for {
		n, err := getdents(fd, buf)
		if err != nil || n == 0 {
			return err
		}
		if err := decodeDirents(buf[:n], f); err != nil {
			return err
		}
	}
}

// getdents reads a part of a directory; nothing is its end.
func getdents(fd int, buf []byte) (int, error) {
	for {
		n, err := unix.Getdents(fd, buf)
		if err != unix.EINTR {
			return max(n, 0), os.NewSyscallError("getdents", err)
		}
	}
}

// decodeDirents takes apart what getdents64 wrote: records of inode, offset, record
// length, type, and a name that ends with a NUL.
func decodeDirents(b []byte, f func(dirent) error) error {
	const (
		lengthAt = unsafe.Offsetof(unix.Dirent{}.Reclen)
		kindAt   = unsafe.Offsetof(unix.Dirent{}.Type)
		nameAt   = unsafe.Offsetof(unix.Dirent{}.Name)
	)
	for len(b) > int(nameAt) {
		record := b[:binary.NativeEndian.Uint16(b[lengthAt:])]
		name := record[nameAt:]
		name = name[:max(bytes.IndexByte(name, 0), 0)]
		if s := string(name); s != "." && s != ".." && s != "" {
			if err := f(dirent{name, binary.NativeEndian.Uint64(record), record[kindAt]}); err != nil {
				return err
			}
		}
		b = b[len(record):]
	}
	return nil
}

// openDir opens a directory that is only to be read; O_NOFOLLOW where names come
// from inside of a store.
func openDir(at int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(at, name, flags|unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}
