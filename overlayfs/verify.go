package overlayfs

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/strata-nix/strata/internal/mount"
)

// Expected is what a mount should be.
type Expected struct {
	// Lowers in order, first wins. A single lower with no Upper is the
	// read-only bind mount that [Mount] makes of it.
	Lowers []string
	// Upper is the upper directory; empty for a mount that must have none.
	Upper string
	// AllowMoreLowers accepts further lowers before, between and after the
	// expected ones, whose order still counts.
	AllowMoreLowers bool
	// AllowRelative accepts a layer that the kernel shows with a relative path
	// if that is how the expected path ends. What it is relative to nobody knows.
	AllowRelative bool
	// Record, if set, says that it must be that very mount and not only one
	// like it.
	Record *Record
}

// Mismatch is the way in which a mount is not the expected one.
type Mismatch int

const (
	NothingMounted Mismatch = iota + 1 // no mount at the target, or no target
	NotAnOverlay                       // another file system is visible
	WrongLowers
	WrongUpper
	UpperReplaced // the upper was deleted and made anew since it was mounted
	NotRecorded   // like the expected one, but not the recorded one
)

// MismatchError says that the mount at Target is not the expected one. Its
// text begins with the words that scripts look for in Nix's own error
// (local-overlay-store.cc).
type MismatchError struct {
	Target   string
	Kind     Mismatch
	Expected Expected
	Found    MountInfo // zero for NothingMounted
	Detail   string
	Err      error // why the target could not be looked at, may be nil
}

func (e *MismatchError) Unwrap() error { return e.Err }

func (e *MismatchError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "overlay filesystem %q mounted incorrectly: ", e.Target)
	switch e.Kind {
	case NothingMounted:
		b.WriteString("nothing is mounted there")
	case NotAnOverlay:
		fmt.Fprintf(&b, "the mount is a file system of type %s from %q", e.Found.FSType, e.Found.Source)
	case WrongLowers:
		b.WriteString("the lower directories differ")
	case WrongUpper:
		b.WriteString("the upper directory differs")
	case UpperReplaced:
		b.WriteString("the upper directory was replaced after the mount was made")
	case NotRecorded:
		b.WriteString("it is not the mount that was recorded")
	}
	if e.Detail != "" {
		fmt.Fprintf(&b, " (%s)", e.Detail)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	fmt.Fprintf(&b, "; expected %s", describe(e.Expected.Lowers, e.Expected.Upper))
	if e.Found.IsOverlay() {
		fmt.Fprintf(&b, "; found %s", describe(e.Found.Lowers, e.Found.Upper))
	}
	return b.String()
}

func describe(lowers []string, upper string) string {
	const most = 8
	s := fmt.Sprintf("lowerdir %q", lowers)
	if len(lowers) > most {
		s = fmt.Sprintf("lowerdir %q and %d more", lowers[:most], len(lowers)-most)
	}
	if upper == "" {
		return s + ", no upperdir"
	}
	return s + fmt.Sprintf(", upperdir %q", upper)
}

// Verify checks that what a process sees at target is the expected mount. A
// mount that is not is a [*MismatchError]; other errors mean that it could not
// be told.
func Verify(target string, want Expected) error {
	bad := func(kind Mismatch, found MountInfo, detail string, err error) error {
		return &MismatchError{Target: target, Kind: kind, Expected: want, Found: found, Detail: detail, Err: err}
	}
	path, err := mount.Resolve(target)
	if err != nil {
		return bad(NothingMounted, MountInfo{}, "", err)
	}
	stack, err := Inspect(path)
	if err != nil {
		return err
	}
	if len(stack) == 0 {
		return bad(NothingMounted, MountInfo{}, "", nil)
	}
	found := stack[len(stack)-1]
	if len(want.Lowers) == 1 && want.Upper == "" && !found.IsOverlay() {
		if !sameDirectory(path, want.Lowers[0]) {
			return bad(WrongLowers, found, "it shows another directory", nil)
		}
	} else if !found.IsOverlay() {
		return bad(NotAnOverlay, found, "", nil)
	} else if kind, detail := want.compare(found); kind != 0 {
		return bad(kind, found, detail, nil)
	} else if detail := replaced(path, found); detail != "" {
		return bad(UpperReplaced, found, detail, nil)
	}
	if want.Record == nil {
		return nil
	}
	state, err := want.Record.Recognise()
	if err != nil {
		return err
	}
	if state != Mounted || want.Record.Target != path {
		return bad(NotRecorded, found, "the recorded mount is "+state.String(), nil)
	}
	return nil
}

func (want Expected) compare(found MountInfo) (Mismatch, string) {
	i := 0
	for _, f := range found.Lowers {
		if i < len(want.Lowers) && want.sameLayer(f, want.Lowers[i]) {
			i++
		} else if !want.AllowMoreLowers {
			if i == len(want.Lowers) {
				return WrongLowers, fmt.Sprintf("%q is one too many", f)
			}
			return WrongLowers, fmt.Sprintf("lower %d is %q", i+1, f) + relativeNote(f)
		}
	}
	if i < len(want.Lowers) {
		return WrongLowers, fmt.Sprintf("%q is missing or not in its place", want.Lowers[i])
	}
	if want.Upper == "" && found.Upper == "" {
		return 0, ""
	}
	for _, spelling := range found.UpperSpellings() {
		if want.Upper != "" && want.sameLayer(spelling, want.Upper) {
			return 0, ""
		}
	}
	return WrongUpper, strings.TrimSpace(relativeNote(found.Upper))
}

func relativeNote(path string) string {
	if path == "" || path[0] == '/' {
		return ""
	}
	return " which is relative to a directory nobody knows"
}

func (want Expected) sameLayer(found, expected string) bool {
	if found == expected || filepath.Clean(found) == absolute(expected) {
		return true
	}
	if found != "" && found[0] != '/' {
		suffix := "/" + strings.TrimPrefix(filepath.Clean(found), "./")
		return want.AllowRelative && strings.HasSuffix(absolute(expected), suffix)
	}
	return sameDirectory(found, absolute(expected))
}

// replaced finds out whether the directory at the upper's path is still the
// one that the overlay writes to. Where the overlay shows real inode numbers
// (all layers on one file system, or xino), its root has the upper's, or, with
// an origin mark, the first lower's. It answers with an explanation, or nothing
// when all is well or it cannot be told.
func replaced(target string, m MountInfo) string {
	if m.Upper == "" || m.Upper[0] != '/' {
		return ""
	}
	root, err := lookAt(target)
	if err != nil {
		return ""
	}
	var upper directory
	for _, p := range m.UpperSpellings() {
		if upper, err = lookAt(p); err == nil {
			break
		}
	}
	// An upper that is not there may only be invisible from here.
	if err != nil || upper.ino == root.ino {
		return ""
	}
	oneFS := true
	for _, l := range m.Lowers {
		low, err := lookAt(l)
		if err != nil || low.ino == root.ino {
			return ""
		}
		oneFS = oneFS && low.device == upper.device
	}
	if !oneFS && !m.Has("xino=on") {
		return ""
	}
	return fmt.Sprintf("%q is inode %d, the overlay writes to inode %d", m.Upper, upper.ino, root.ino)
}
