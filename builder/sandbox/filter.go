package sandbox

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The filter keeps builders from making files that a store object cannot be or
// must not be: ones with setuid or setgid bits (EPERM), and with extended
// attributes and ACLs (ENOTSUP, which programs know from file systems without).
//
// Not caught, as by upstream's: openat2 and io_uring, whose arguments are in memory
// that a filter cannot read. What could be made by them does no harm: in isolation
// all is mounted nosuid and out of reach of others, and the bits are taken off
// before an output becomes valid.

// action is what happens to a system call.
type action struct {
	nr uint32
	// mode is the number of the argument with permissions, whose setuid and setgid bits
	// are refused; always: the call is refused whatever its arguments.
	mode uint32
	// flags is the number of the argument that must have O_CREAT or O_TMPFILE for mode
	// to count; always: it counts.
	flags uint32
}

const always = ^uint32(0)

// abi is one of the interfaces that programs on a machine call the kernel by.
type abi struct {
	arch    uint32 // AUDIT_ARCH_*
	actions []action
}

// x32Bit marks calls of the x32 interface, which has the architecture of 64-bit ones.
const x32Bit = 0x40000000

// createFlags are O_CREAT and what is special to O_TMPFILE, the same on all
// architectures here.
const createFlags = unix.O_CREAT | 0x400000

var errNoFilter = errors.New("there is no system call filter for " + runtime.GOARCH +
	"; filter-syscalls = false does without, but then untrusted builds can make setuid programs")

// filterProgram is the filter for the machine of this program.
func filterProgram() ([]unix.SockFilter, error) {
	abis := filtered[runtime.GOARCH]
	if abis == nil {
		return nil, errNoFilter
	}
	return assemble(abis), nil
}

// Offsets in struct seccomp_data on little-endian machines, of lower halves.
const (
	dataNr   = 0
	dataArch = 4
	dataArgs = 16
)

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func ret(action uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
}

// skipUnless goes on if the loaded value is k, otherwise n instructions further.
func skipUnless(k uint32, n int) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jf: uint8(n)}
}

// skipIfNone goes on if the loaded value has one of the bits, otherwise n instructions further.
func skipIfNone(bits uint32, n int) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: bits, Jf: uint8(n)}
}

const (
	retAllow = unix.SECCOMP_RET_ALLOW
	retKill  = unix.SECCOMP_RET_KILL_PROCESS
	retErrno = unix.SECCOMP_RET_ERRNO
)

// assemble makes the program: one section per interface, one block per call.
func assemble(abis []abi) []unix.SockFilter {
	prog := []unix.SockFilter{load(dataArch)}
	for _, a := range abis {
		section := a.section()
		// A conditional jump reaches 255 instructions, a plain one any number.
		prog = append(prog,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: a.arch, Jt: 1},
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(section))})
		prog = append(prog, section...)
	}
	return append(prog, ret(retKill)) // calls of an interface that is not known
}

// section decides about a call of this interface.
func (a abi) section() []unix.SockFilter {
	prog := []unix.SockFilter{load(dataNr)}
	if a.arch == unix.AUDIT_ARCH_X86_64 {
		// The calls that matter have the same numbers as x32 ones.
		prog = append(prog, unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: ^uint32(x32Bit)})
	}
	for _, c := range a.actions {
		block := c.block()
		prog = append(prog, skipUnless(c.nr, len(block)))
		prog = append(prog, block...)
	}
	return append(prog, ret(retAllow))
}

// block decides about one call and always returns.
func (c action) block() []unix.SockFilter {
	if c.mode == always {
		return []unix.SockFilter{ret(retErrno | uint32(unix.ENOTSUP))}
	}
	var block []unix.SockFilter
	if c.flags != always {
		block = append(block, load(dataArgs+8*c.flags), skipIfNone(createFlags, 3))
	}
	return append(block,
		load(dataArgs+8*c.mode),
		skipIfNone(unix.S_ISUID|unix.S_ISGID, 1),
		ret(retErrno|uint32(unix.EPERM)),
		ret(retAllow))
}

// installFilter puts the calling thread, and what it executes, under the filter.
// It takes no_new_privs, or privilege.
func installFilter() error {
	prog, err := filterProgram()
	if err != nil {
		return err
	}
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&fprog)))
	runtime.KeepAlive(prog)
	switch errno {
	case 0:
		return nil
	case unix.EACCES:
		return fmt.Errorf("%w: allow-new-privileges together with filter-syscalls takes root", errno)
	}
	return errno
}
