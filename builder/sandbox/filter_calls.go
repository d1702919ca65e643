package sandbox

import (
	"slices"

	"golang.org/x/sys/unix"
)

// filtered are the interfaces that programs may use on a machine: its own, and
// those of the 32-bit programs that it also runs. Numbers are from the
// system call tables of Linux.
var filtered = map[string][]abi{
	"amd64": {{unix.AUDIT_ARCH_X86_64, callsAMD64}, {unix.AUDIT_ARCH_I386, calls386}},
	"arm64": {{unix.AUDIT_ARCH_AARCH64, callsGeneric}, {unix.AUDIT_ARCH_ARM, callsARM}},

	"riscv64": {{unix.AUDIT_ARCH_RISCV64, callsGeneric}},
	"loong64": {{unix.AUDIT_ARCH_LOONGARCH64, callsGeneric}},
}

// xattrCalls are set, lset, fset, get, lget and fgetxattr, which have numbers in
// a row everywhere, and those of Linux 6.13.
func xattrCalls(first uint32) []action {
	var calls []action
	for i := range uint32(6) {
		calls = append(calls, action{nr: first + i, mode: always})
	}
	const setxattrat, getxattrat = 463, 464
	return append(calls, action{nr: setxattrat, mode: always}, action{nr: getxattrat, mode: always})
}

// fchmodat2 has one number everywhere.
var fchmodat2 = action{nr: 452, mode: 2, flags: always}

var callsAMD64 = slices.Concat([]action{
	{nr: 90, mode: 1, flags: always},  // chmod
	{nr: 91, mode: 1, flags: always},  // fchmod
	{nr: 268, mode: 2, flags: always}, // fchmodat
	fchmodat2,
	{nr: 2, mode: 2, flags: 1},        // open
	{nr: 85, mode: 1, flags: always},  // creat
	{nr: 257, mode: 3, flags: 2},      // openat
	{nr: 133, mode: 1, flags: always}, // mknod
	{nr: 259, mode: 2, flags: always}, // mknodat
}, xattrCalls(188))

var calls386 = slices.Concat([]action{
	{nr: 15, mode: 1, flags: always},  // chmod
	{nr: 94, mode: 1, flags: always},  // fchmod
	{nr: 306, mode: 2, flags: always}, // fchmodat
	fchmodat2,
	{nr: 5, mode: 2, flags: 1},        // open
	{nr: 8, mode: 1, flags: always},   // creat
	{nr: 295, mode: 3, flags: 2},      // openat
	{nr: 14, mode: 1, flags: always},  // mknod
	{nr: 297, mode: 2, flags: always}, // mknodat
}, xattrCalls(226))

var callsARM = slices.Concat([]action{
	{nr: 15, mode: 1, flags: always},  // chmod
	{nr: 94, mode: 1, flags: always},  // fchmod
	{nr: 333, mode: 2, flags: always}, // fchmodat
	fchmodat2,
	{nr: 5, mode: 2, flags: 1},        // open
	{nr: 8, mode: 1, flags: always},   // creat
	{nr: 322, mode: 3, flags: 2},      // openat
	{nr: 14, mode: 1, flags: always},  // mknod
	{nr: 324, mode: 2, flags: always}, // mknodat
}, xattrCalls(226))

// callsGeneric are those of architectures that came late and share a table.
var callsGeneric = slices.Concat([]action{
	{nr: 52, mode: 1, flags: always}, // fchmod
	{nr: 53, mode: 2, flags: always}, // fchmodat
	fchmodat2,
	{nr: 56, mode: 3, flags: 2},      // openat
	{nr: 33, mode: 2, flags: always}, // mknodat
}, xattrCalls(5))
