package mount

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Record says which mount we made, so that a later run can tell whether what
// it finds is ours. It is written as JSON (see [ParseRecord]) before the mount
// is attached. A record describes one mount in one namespace of one boot.
type Record struct {
	Version   int       `json:"version"`   // RecordVersion
	Target    string    `json:"target"`    // mount point, absolute, symbolic links resolved
	FSType    string    `json:"fs-type"`   // "overlay", "erofs"; for a bind the original's
	MountID   uint64    `json:"mount-id"`  // as in mountinfo; reusable
	UniqueID  uint64    `json:"unique-id"` // 0 when the kernel has none
	Device    string    `json:"device"`    // "major:minor" of the mounted file system
	Boot      string    `json:"boot-id"`   // /proc/sys/kernel/random/boot_id
	Namespace uint64    `json:"mount-namespace"`
	Source    string    `json:"source,omitempty"` // image or directory that is shown
	Lowers    []string  `json:"lowers,omitempty"` // overlay: first wins
	Upper     string    `json:"upper,omitempty"`
	Work      string    `json:"work,omitempty"`
	MountedAt time.Time `json:"mounted-at"`
}

// RecordVersion is the version of [Record] written now.
const RecordVersion = 1

// MaxRecord bounds the size of an encoded record that is read, in bytes.
const MaxRecord = 4 << 20

// RecordError is an encoded record that cannot be used.
type RecordError struct {
	Field string // the JSON name, empty for the whole
	Err   error
}

func (e *RecordError) Error() string {
	if e.Field == "" {
		return fmt.Sprintf("mount record: %v", e.Err)
	}
	return fmt.Sprintf("mount record: field %q: %v", e.Field, e.Err)
}
func (e *RecordError) Unwrap() error { return e.Err }

// NewRecord fills in what identifies the mount id for the calling process's
// namespace and boot. The caller adds Source, Lowers, Upper and Work.
func NewRecord(target, fstype string, id ID) (Record, error) {
	boot, err := BootID()
	if err != nil {
		return Record{}, err
	}
	ns, err := Namespace()
	if err != nil {
		return Record{}, err
	}
	return Record{
		Version: RecordVersion, Target: target, FSType: fstype,
		MountID: id.Mount, UniqueID: id.Unique, Device: id.Device.String(),
		Boot: boot, Namespace: ns, MountedAt: time.Now().UTC().Truncate(time.Millisecond),
	}, nil
}

// ParseRecord reads the JSON form of a record and checks that it is usable.
// Unknown fields are ignored, so that an older strata can read a newer record
// of the same version.
func ParseRecord(data []byte) (Record, error) {
	var r Record
	if len(data) > MaxRecord {
		return r, &RecordError{Err: fmt.Errorf("%d bytes, more than %d", len(data), MaxRecord)}
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, &RecordError{Err: err}
	}
	bad := func(field, format string, args ...any) (Record, error) {
		return Record{}, &RecordError{field, fmt.Errorf(format, args...)}
	}
	switch {
	case r.Version != RecordVersion:
		return bad("version", "%d is not %d", r.Version, RecordVersion)
	case !filepath.IsAbs(r.Target) || filepath.Clean(r.Target) != r.Target:
		return bad("target", "%q is not a clean absolute path", clip(r.Target))
	case r.MountID == 0:
		return bad("mount-id", "missing")
	case r.Boot == "":
		return bad("boot-id", "missing")
	}
	if _, err := parseDevice(r.Device); err != nil {
		return bad("device", "%q: %w", clip(r.Device), err)
	}
	return r, nil
}

func (r Record) id() ID {
	dev, _ := parseDevice(r.Device)
	return ID{Mount: r.MountID, Unique: r.UniqueID, Device: dev}
}

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
