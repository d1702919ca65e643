package overlayfs

import (
	"strings"
)

const (
	// MaxLowers is the most lowers that the kernel takes (OVL_MAX_STACK).
	MaxLowers = 500
	// AdvisedLowers is the most lowers that cost nothing noticeable: each one
	// adds up to 1.5 µs to the first lookup of a name.
	AdvisedLowers = 64
)

// Choice is an option that may be left to the package.
type Choice int

const (
	Auto Choice = iota
	On
	Off
)

// Options describe an overlay mount. Paths may be relative and may contain any
// byte but zero. They are used as given, symbolic links and all, so that they
// can be recognised in the mount table.
type Options struct {
	// Lowers are the read-only layers; the first one wins. A single lower
	// without an upper becomes a read-only bind mount, as OverlayFS does not
	// take it.
	Lowers []string
	// Upper and Work are the writable layer and the kernel's scratch directory
	// beside it; both empty for a read-only merge. They must exist.
	Upper, Work string
	// Target is the directory to mount on. It may be one of the lowers.
	Target string

	// UserXattr keeps the marks of the upper in user.overlay.* attributes. Auto
	// means: always outside the first user namespace, where nothing else is
	// allowed; inside it, only for an upper that has such marks already.
	UserXattr Choice
	// Xino makes inode numbers stable and unique and, just as important here,
	// new directories opaque (see the package comment). Auto is On.
	Xino Choice
	// ReadOnly refuses writes, whether there is an upper or not.
	ReadOnly bool
	// Extra are further OverlayFS parameters, "key" or "key=value", for
	// instance "volatile". They take precedence over the package's own.
	Extra []string

	// AllowUpperInUse lets a second mount have the same upper, as is needed for
	// a moment when one mount replaces another. It logs a warning in the
	// kernel's log and is the caller's responsibility.
	AllowUpperInUse bool
	// BeforeAttach is called when the mount exists but is not visible yet. It is
	// the place to store the record; an error gives the mount up. On kernels
	// without the new mount interface it is called right after mounting.
	BeforeAttach func(Record) error
}

// advice lists what is legal but unwise.
func (o Options) advice() []string {
	var out []string
	if len(o.Lowers) > AdvisedLowers {
		out = append(out, "more than 64 lowers slow down every first lookup; merge some of them")
	}
	return out
}

// parameters returns the OverlayFS parameters other than the layers. Features
// that some kernels turn on by default and that a store must not have are
// turned off by name: index makes an upper unusable with another list of
// lowers, redirects and metacopy leave objects in the upper incomplete.
func (o Options) parameters(userXattr bool) []string {
	defaults := []string{"index=off", "metacopy=off"}
	if userXattr {
		defaults = append(defaults, "userxattr")
	} else {
		// With userxattr the kernel implies it, and refuses to hear it.
		defaults = append(defaults, "redirect_dir=off")
	}
	if o.Xino != Off {
		defaults = append(defaults, "xino=on")
	} else {
		defaults = append(defaults, "xino=off")
	}
	given := map[string]bool{}
	for _, p := range o.Extra {
		key, _, _ := strings.Cut(p, "=")
		given[key] = true
	}
	var out []string
	for _, p := range defaults {
		if key, _, _ := strings.Cut(p, "="); !given[key] {
			out = append(out, p)
		}
	}
	return append(out, o.Extra...)
}
