package sandbox

import (
	"io/fs"
	"os"
)

// Spec says what is to run, as whom, and in what surroundings.
type Spec struct {
	// Path is the program, as it is called inside.
	Path string
	// Args are its arguments, Args[0] the name that it sees itself under.
	Args []string
	// Env is the whole environment, "name=value".
	Env []string
	// Dir is the working directory, as it is called inside.
	Dir string
	// Output gets standard output and error. Start does not close it. Standard
	// input is /dev/null.
	Output *os.File

	// User is who runs it. nil: who runs this program.
	User *User
	// KeepGroups leaves the supplementary groups of this program alone if they cannot be
	// dropped, which only root can ("require-drop-supplementary-groups" is false).
	KeepGroups bool
	// Cgroup is the control group that it runs in. nil: that of this program.
	Cgroup *Cgroup

	// Platform is the derivation's, such as "i686-linux": it decides what the
	// machine is called inside.
	Platform string
	// Linux26 shows a Linux 2.6 ("impersonate-linux-26").
	Linux26 bool
	// AllSyscalls leaves out the filter against setuid bits and extended
	// attributes ("filter-syscalls" is false).
	AllSyscalls bool
	// NewPrivileges lets programs gain privileges when they are executed
	// ("allow-new-privileges"). It is without effect in isolation, where bubblewrap
	// forbids it always.
	NewPrivileges bool

	// Isolation is what the builder sees of the world. nil: all of it.
	Isolation *Isolation
}

// Isolation is what a builder sees. There are always /dev with the usual devices,
// unless a mount has that target, and the /proc of its own processes.
type Isolation struct {
	// Mounts are what else is there, in any order, no two with one target.
	Mounts []Mount
	// Network leaves the builder on the network of the machine. Otherwise it has a
	// loopback interface and nothing else.
	Network bool
	// KVM shows /dev/kvm if there is one.
	KVM bool
	// DevShmSize bounds /dev/shm as the mount option size of tmpfs does: bytes, with
	// a suffix k, m or g, or a percentage of the memory. "50%" if empty.
	DevShmSize string
}

// Kind is how a [Mount] comes about.
type Kind uint8

// The kinds of mounts.
const (
	// ReadOnly shows Source, a file or directory with all that is mounted in it. A
	// symlink is repeated and not followed. Nothing is created in it.
	ReadOnly Kind = iota
	// Writable is the same, with writing as far as permissions of the user go.
	Writable
	// Own shows the directory Source, which belongs to the build alone: it is
	// writable, and the places of other mounts in it are created there.
	Own
	// File is a new file with contents Data and permissions Mode (0444 if 0).
	File
	// Symlink is a new symlink to Source.
	Symlink
	// Dir is a new empty directory with permissions Mode (0755 if 0).
	Dir
	// Tmpfs is a new file system in memory, writable for everybody, with Size as
	// its mount option size if not empty.
	Tmpfs
)

// Mount is something that is seen in a sandbox.
type Mount struct {
	Kind     Kind
	Target   string // where it is inside: absolute and clean
	Source   string // where it is outside, or what a symlink says
	Optional bool   // not there if there is no Source
	Data     []byte
	Mode     fs.FileMode
	Size     string
}
