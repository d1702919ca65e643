package fusefs

import (
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// opcode is what the kernel asks for.
type opcode uint32

// The opcodes that are told apart.
// Source: enum fuse_opcode in include/uapi/linux/fuse.h.
const (
	opLookup      opcode = 1
	opForget      opcode = 2
	opGetattr     opcode = 3
	opReadlink    opcode = 5
	opRead        opcode = 15
	opStatfs      opcode = 17
	opRelease     opcode = 18
	opInit        opcode = 26
	opReaddir     opcode = 28
	opReleasedir  opcode = 29
	opInterrupt   opcode = 36
	opDestroy     opcode = 38
	opNotifyReply opcode = 41
	opBatchForget opcode = 42
	opReaddirplus opcode = 44
)

// silent are requests that nobody waits for.
func (o opcode) silent() bool { return o == opForget || o == opBatchForget || o == opNotifyReply }

// resent is the bit of a request's number that says that somebody else has had it.
// Source: FUSE_UNIQUE_RESEND.
const resent = 1 << 63

const (
	headerIn  = int(unsafe.Sizeof(fuse.InHeader{}))
	headerOut = int(unsafe.Sizeof(fuse.OutHeader{}))
)

// as looks at the beginning of b as a T of the protocol, in the machine's byte
// order; nil if b is too short. b must be aligned as T is: it begins a buffer.
func as[T any](b []byte) *T {
	if len(b) < int(unsafe.Sizeof(*new(T))) {
		return nil
	}
	return (*T)(unsafe.Pointer(unsafe.SliceData(b)))
}

// bytesOf are those of a T of the protocol.
func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}
