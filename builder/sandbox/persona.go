package sandbox

import (
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// Personalities, as in linux/personality.h.
const (
	perLinux32      = 0x0008
	uname26         = 0x0020000
	addrNoRandomize = 0x0040000
)

// persona is the personality that builders for a platform have, as upstream's:
// 32-bit ones see a 32-bit machine, and addresses are not random, which makes
// some builds reproducible.
func persona(platform string, linux26 bool) uintptr {
	p := uintptr(addrNoRandomize)
	switch {
	case platform == "i686-linux" && runtime.GOARCH == "amd64",
		slices.Contains([]string{"armv7l-linux", "armv6l-linux", "armv5tel-linux"}, platform):
		p |= perLinux32
	}
	if linux26 && (platform == "i686-linux" || platform == "x86_64-linux") {
		p |= uname26
	}
	return p
}

// personality changes that of the calling thread and of what it executes. Only
// the name of the machine matters enough to fail for: that addresses are random
// does no harm, and some containers forbid to change it.
func (s *builderSpec) personality() error {
	if _, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, s.Persona, 0, 0); errno != 0 && s.Persona != addrNoRandomize {
		return errno
	}
	return nil
}
