package mount

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// statmountRequest is struct mnt_id_req of linux/mount.h, its first version.
type statmountRequest struct {
	size  uint32
	_     uint32
	id    uint64
	param uint64
}

// statmountReply is the start of struct statmount of linux/mount.h.
type statmountReply struct {
	size, opts         uint32
	mask               uint64
	devMajor, devMinor uint32
	magic              uint64
	sbFlags, fsType    uint32
	id, parent         uint64
	idOld, parentOld   uint32
	_                  [512]byte
}

const (
	statmountSBBasic  = 1 << 0
	statmountMntBasic = 1 << 1
)

// errNoStatmount means that the kernel (before 6.8) or a system call filter
// gives no answer by unique mount id.
var errNoStatmount = errors.New("statmount(2) is not available")

// lookupUnique asks for the mount with a unique id in the caller's namespace.
// It returns false when there is none.
func lookupUnique(unique uint64) (ID, bool, error) {
	req := statmountRequest{id: unique, param: statmountSBBasic | statmountMntBasic}
	req.size = uint32(unsafe.Sizeof(req))
	var st statmountReply
	_, _, errno := unix.Syscall6(unix.SYS_STATMOUNT, uintptr(unsafe.Pointer(&req)),
		uintptr(unsafe.Pointer(&st)), unsafe.Sizeof(st), 0, 0, 0)
	switch {
	case errno == unix.ENOENT:
		return ID{}, false, nil
	case errno != 0:
		return ID{}, false, errNoStatmount
	case st.mask&statmountMntBasic == 0 || st.mask&statmountSBBasic == 0:
		return ID{}, false, errNoStatmount
	}
	return ID{Mount: uint64(st.idOld), Unique: st.id, Device: Device{st.devMajor, st.devMinor}}, true, nil
}
