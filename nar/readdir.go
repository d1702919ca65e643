package nar

import (
	"bytes"
	"encoding/binary"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A dirEntry is a name in a directory, and its type (unix.DT_*) if the file
// system says so for free.
type dirEntry struct {
	name string
	typ  uint8
}

// direntPool has buffers for what the kernel writes of a directory.
var direntPool = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// readDirectory lists an open directory, unsorted, without "." and "..". It
// moves fd's position.
func readDirectory(fd int) ([]dirEntry, error) {
	buffer := direntPool.Get().(*[32 << 10]byte)
	defer direntPool.Put(buffer)
	buf := buffer[:]
	var list []dirEntry
	for {
		n, err := retry(func() (int, error) { return unix.ReadDirent(fd, buf) })
		if err != nil || n <= 0 {
			return list, err
		}
		list = appendDirents(list, buf[:n])
	}
}

// appendDirents decodes what getdents64 wrote: records of inode, offset, record
// length, type, and a name that ends with a NUL.
func appendDirents(list []dirEntry, b []byte) []dirEntry {
	const (
		lengthAt = unsafe.Offsetof(unix.Dirent{}.Reclen)
		typeAt   = unsafe.Offsetof(unix.Dirent{}.Type)
		nameAt   = unsafe.Offsetof(unix.Dirent{}.Name)
	)
	for len(b) > int(nameAt) {
		record := b[:binary.NativeEndian.Uint16(b[lengthAt:])]
		name := record[nameAt:]
		name = name[:max(bytes.IndexByte(name, 0), 0)]
		if s := string(name); s != "." && s != ".." && s != "" {
			list = append(list, dirEntry{s, record[typeAt]})
		}
		b = b[len(record):]
	}
	return list
}

// modeType is the unix.DT_* constant for a file mode.
func modeType(mode uint32) uint8 { return uint8(mode & unix.S_IFMT >> 12) }

// typeAt is the type of a directory entry, from its inode if need be.
func (e *dirEntry) typeAt(dirfd int) (uint8, error) {
	if e.typ != unix.DT_UNKNOWN {
		return e.typ, nil
	}
	var st unix.Stat_t
	err := unix.Fstatat(dirfd, e.name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return modeType(st.Mode), err
}
