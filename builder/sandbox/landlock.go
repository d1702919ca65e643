package sandbox

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of linux/landlock.h.
const (
	landlockCreateRulesetVersion    = 1 << 0
	landlockScopeAbstractUnixSocket = 1 << 0
	landlockScopesSince             = 6 // version of the interface, Linux 6.12
)

// landlockRuleset is struct landlock_ruleset_attr.
type landlockRuleset struct{ accessFS, accessNet, scoped uint64 }

// hasScopes tells whether the kernel can keep processes from abstract sockets of others.
func hasScopes() bool {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, landlockCreateRulesetVersion)
	return errno == 0 && version >= landlockScopesSince
}

// scopeAbstractSockets keeps the calling thread and what it executes from
// connecting to abstract unix sockets of processes outside. They belong to the
// network namespace, so two builders that have the machine's network could
// hand each other file descriptors through them. Older kernels cannot help it.
func scopeAbstractSockets() error {
	if !hasScopes() {
		return nil
	}
	attr := landlockRuleset{scoped: landlockScopeAbstractUnixSocket}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return errno
	}
	defer unix.Close(int(fd))
	if _, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return errno
	}
	return nil
}
