package sandbox

import (
	"path/filepath"
	"slices"
	"strings"
)

// devices are the usual ones. A container may have some of them only; then
// they are missing here too.
var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

// DefaultDevShmSize is "sandbox-dev-shm-size" unless it is set.
const DefaultDevShmSize = "50%"

// mounts are those that there are always and those that are wished for, which have
// the last word where both are at one place. What others lie in comes before them.
func (s *keeperSpec) mounts() []Mount {
	given := make(map[string]bool, len(s.Isolation.Mounts))
	for _, m := range s.Isolation.Mounts {
		given[m.Target] = true
	}
	all := []Mount{{Kind: Dir, Target: "/proc"}}
	if s.Count > 1 {
		all = append(all, Mount{Kind: bare, Source: "/sys", Target: "/sys", Optional: true})
	}
	if !given["/dev"] {
		all = append(all, s.devMounts()...)
	}
	all = slices.DeleteFunc(all, func(m Mount) bool { return given[m.Target] })
	all = append(all, s.Isolation.Mounts...)
	slices.SortStableFunc(all, func(a, b Mount) int { return strings.Compare(a.Target, b.Target) })
	return all
}

// devMounts make up a /dev.
func (s *keeperSpec) devMounts() []Mount {
	size := s.Isolation.DevShmSize
	if size == "" {
		size = DefaultDevShmSize
	}
	all := []Mount{
		{Kind: Dir, Target: "/dev"},
		{Kind: Symlink, Target: "/dev/fd", Source: "/proc/self/fd"},
		{Kind: Symlink, Target: "/dev/stdin", Source: "/proc/self/fd/0"},
		{Kind: Symlink, Target: "/dev/stdout", Source: "/proc/self/fd/1"},
		{Kind: Symlink, Target: "/dev/stderr", Source: "/proc/self/fd/2"},
		{Kind: Tmpfs, Target: "/dev/shm", Size: size},
		{Kind: terminals, Target: "/dev/pts"},
		{Kind: Symlink, Target: "/dev/ptmx", Source: "/dev/pts/ptmx"},
	}
	for _, name := range devices {
		all = append(all, device(name))
	}
	if s.Isolation.KVM {
		all = append(all, device("kvm"))
	}
	return all
}

// device shows a device of the machine, where its name may be a symlink.
func device(name string) Mount {
	source, err := filepath.EvalSymlinks("/dev/" + name)
	if err != nil {
		source = "/dev/" + name
	}
	return Mount{Kind: Writable, Source: source, Target: "/dev/" + name, Optional: true}
}
