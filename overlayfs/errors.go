package overlayfs

import (
	"errors"
	"fmt"

	"github.com/strata-nix/strata/internal/mount"
)

// Conditions that Mount checks. They arrive inside a [*LayerError], which
// names the directory. Test with errors.Is.
var (
	// ErrMissing means that a directory does not exist.
	ErrMissing = errors.New("does not exist")
	// ErrNotDirectory means that something else is in its place.
	ErrNotDirectory = errors.New("is not a directory")
	// ErrNoLowers means that no lower was given.
	ErrNoLowers = errors.New("an overlay needs at least one lower directory")
	// ErrTooManyLowers means more than [MaxLowers].
	ErrTooManyLowers = errors.New("too many lower directories")
	// ErrUpperWithoutWork means that only one of upper and work was given.
	ErrUpperWithoutWork = errors.New("upper and work directory are given together or not at all")
	// ErrDifferentFS means that upper and work are not on one mount.
	ErrDifferentFS = errors.New("upper and work directory must be on the same mounted file system")
	// ErrWorkNotEmpty means that the work directory holds things of others.
	ErrWorkNotEmpty = errors.New("the work directory holds other files; give it a directory of its own")
	// ErrOverlap means that one directory is, or lies inside, another.
	ErrOverlap = errors.New("directories of one overlay must not contain each other")
	// ErrUnfitUpper means that the file system cannot hold an upper.
	ErrUnfitUpper = errors.New("the file system cannot hold an upper directory")
	// ErrUpperInUse means that another visible overlay has the same upper or
	// work directory.
	ErrUpperInUse = errors.New("in use by another overlay mount")
	// ErrNestedTooDeep means that a lower is itself stacked as deep as the
	// kernel allows: two levels, where an overlay is one and FUSE with
	// passthrough is one.
	ErrNestedTooDeep = errors.New("file systems are stacked too deep")
	// ErrPathTooLong means that this kernel cannot be given so long a path.
	ErrPathTooLong = errors.New("path too long for the mount interface of this kernel")
	// ErrBadPath means that a path is empty or holds a zero byte.
	ErrBadPath = errors.New("is not a usable path")
)

// LayerError is a directory that cannot take its part in an overlay.
type LayerError struct {
	Role   string // "lower 2", "upper", "work", "target"
	Path   string
	Other  string // the other directory of an overlap or of two file systems
	Detail string // more about it, may be empty
	Err    error  // one of the sentinels above, or an errno
}

func (e *LayerError) Error() string {
	s := e.Role
	if e.Path != "" {
		s += fmt.Sprintf(" %q", e.Path)
	}
	s += ": " + e.Err.Error()
	if e.Other != "" {
		s += fmt.Sprintf(" (the other is %q)", e.Other)
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

func (e *LayerError) Unwrap() error { return e.Err }

// What the mount table and the kernel have to say, shared with package image.
type (
	// ID names one mount of this boot.
	ID = mount.ID
	// Record says which mount we made; it is kept as JSON.
	Record = mount.Record
	// State is what became of a recorded mount.
	State = mount.State
	// ConfigError is a parameter or step that the kernel refused, with its
	// own words.
	ConfigError = mount.ConfigError
	// BusyError is a mount that is in use, with those who use it.
	BusyError = mount.BusyError
	// StateError is a recorded mount that is not where it was.
	StateError = mount.StateError
)

// The states of a recorded mount.
const (
	Unknown   = mount.Unknown
	Mounted   = mount.Mounted
	Covered   = mount.Covered
	Moved     = mount.Moved
	Gone      = mount.Gone
	Foreign   = mount.Foreign
	Elsewhere = mount.Elsewhere
)

// ErrNotMounted means that there is no mount to act on.
var ErrNotMounted = mount.ErrNotMounted

// ParseRecord reads the JSON form of a [Record].
func ParseRecord(data []byte) (Record, error) { return mount.ParseRecord(data) }
