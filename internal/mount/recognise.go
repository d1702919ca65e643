package mount

import (
	"errors"

	"golang.org/x/sys/unix"
)

// State is what became of a recorded mount.
type State int

const (
	Unknown   State = iota // could not tell; treat as somebody else's
	Mounted                // it is there, and it is what a process at the target sees
	Covered                // it is there, under another mount at the same target
	Moved                  // it is there, but attached at another place
	Gone                   // it no longer exists, and nothing is mounted at the target
	Foreign                // it no longer exists, and somebody else's mount is at the target
	Elsewhere              // it was made in another mount namespace that may be alive
)

func (s State) String() string {
	switch s {
	case Mounted:
		return "mounted"
	case Covered:
		return "covered by another mount"
	case Moved:
		return "moved to another mount point"
	case Gone:
		return "gone"
	case Foreign:
		return "gone, and a foreign mount is in its place"
	case Elsewhere:
		return "made in another mount namespace"
	}
	return "unknown"
}

// Recognise tells what became of the recorded mount, as seen from the calling
// process. An error goes with [Unknown]. Only [Mounted] allows to unmount it.
func (r Record) Recognise() (State, error) {
	boot, err := BootID()
	if err != nil {
		return Unknown, err
	}
	here, found, err := r.visible()
	if err != nil {
		return Unknown, err
	}
	if boot != r.Boot {
		return r.absent(here), nil
	}
	if found {
		return Mounted, nil
	}
	hidden, err := r.hidden()
	if err != nil {
		return Unknown, err
	}
	if hidden != nil {
		if hidden.Target == r.Target {
			return Covered, nil
		}
		return Moved, nil
	}
	ns, err := Namespace()
	if err != nil {
		return Unknown, err
	}
	if ns != r.Namespace {
		return Elsewhere, nil
	}
	return r.absent(here), nil
}

func (r Record) absent(here ID) State {
	if here.Root {
		return Foreign
	}
	return Gone
}

// visible looks at what a process sees at the target.
func (r Record) visible() (here ID, ours bool, err error) {
	here, err = Identify(r.Target)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return ID{}, false, nil
	}
	if err != nil {
		return ID{}, false, err
	}
	if !here.Root || !here.Same(r.id()) {
		return here, false, nil
	}
	if here.Unique != 0 && r.UniqueID != 0 {
		return here, true, nil
	}
	// Without unique ids the number may be a stranger's: compare all we know.
	stack, err := StackAt(r.Target)
	if err != nil || len(stack) == 0 {
		return here, false, err
	}
	return here, stack[len(stack)-1].FSType == r.FSType, nil
}

// hidden looks for the mount in the whole namespace.
func (r Record) hidden() (*Entry, error) {
	want := r.id()
	if r.UniqueID != 0 {
		id, found, err := lookupUnique(r.UniqueID)
		if err == nil && !found {
			return nil, nil
		}
		if err == nil {
			want.Mount = id.Mount
		}
	}
	list, err := ReadTable(func(e Entry) bool {
		return e.ID == want.Mount && e.Device == want.Device && e.FSType == r.FSType
	})
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return &list[0], nil
}
