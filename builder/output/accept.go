package output

import (
	"context"
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/nar"
)

// accept looks whether the outputs are there and are the builder's own, and gives
// them the metadata of store objects. It goes before anything is read: a hard link
// to somebody's secret must not come in.
func (r *registration) accept(ctx context.Context) error {
	// Hard links between outputs are met twice.
	canonical := nar.CanonicaliseOptions{IgnoredACLs: r.o.IgnoredACLs, Owners: r.owners(), Seen: nar.Inodes{}}
	for _, name := range r.names {
		m := r.made[name]
		if m == nil {
			continue
		}
		var st unix.Stat_t
		if err := unix.Lstat(m.Real, &st); errors.Is(err, unix.ENOENT) {
			return rejectf("builder for '%s' failed to produce output path for output '%s' at \"%s\"", r.drv(), name, m.Real)
		} else if err != nil {
			return &fs.PathError{Op: "lstat", Path: m.Real, Err: err}
		}
		symlink := st.Mode&unix.S_IFMT == unix.S_IFLNK
		writable := !symlink && st.Mode&(unix.S_IWGRP|unix.S_IWOTH) != 0
		if writable || r.o.Builder != nil && st.Uid != r.o.Builder.UID {
			return rejectf("suspicious ownership or permission on \"%s\" for output '%s'; rejecting this build output", m.Real, name)
		}
		m.mode = st.Mode
		if err := nar.Canonicalise(ctx, m.Real, canonical); err != nil {
			return r.damage(err)
		}
	}
	return nil
}

func (r *registration) owners() *nar.UIDRange {
	if r.o.Owners == nil && r.o.Builder != nil {
		return &nar.UIDRange{First: r.o.Builder.UID, Last: r.o.Builder.UID}
	}
	return r.o.Owners
}

// damage makes a Failure of errors that are the fault of what the builder made.
func (r *registration) damage(err error) error {
	path := ""
	var at *fs.PathError
	if errors.As(err, &at) {
		path = at.Path
	}
	var malformed *nar.FormatError
	var f *Failure
	switch {
	case errors.Is(err, nar.ErrUnsupportedType):
		f = rejectf("file \"%s\" has an unsupported type", path)
	case errors.Is(err, nar.ErrOwner):
		f = rejectf("invalid ownership on file \"%s\"", path)
	case errors.Is(err, nar.ErrTooDeep), errors.Is(err, nar.ErrChanged):
		f = rejectf("output of '%s' cannot be stored: %v", r.drv(), err)
	case errors.As(err, &malformed):
		f = rejectf("output of '%s' cannot be stored with the hash parts in its file names rewritten: %v", r.drv(), err)
	default:
		return err
	}
	f.Err = err
	return f
}
