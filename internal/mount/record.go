package mount

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"
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

// A path in the JSON form that is not valid UTF-8, which JSON cannot hold, is
// written as "base64:" and its bytes in base64. Real paths begin with a slash.

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

// MarshalJSON writes the record with its paths in a form that JSON can hold.
func (r Record) MarshalJSON() ([]byte, error) {
	type plain Record
	for _, p := range []*string{&r.Target, &r.Source, &r.Upper, &r.Work} {
		*p = encodePath(*p)
	}
	lowers := make([]string, len(r.Lowers))
	for i, l := range r.Lowers {
		lowers[i] = encodePath(l)
	}
	r.Lowers = lowers
	return json.Marshal(plain(r))
}

// UnmarshalJSON is the reverse of MarshalJSON.
func (r *Record) UnmarshalJSON(data []byte) error {
	type plain Record
	if err := json.Unmarshal(data, (*plain)(r)); err != nil {
		return err
	}
	paths := []*string{&r.Target, &r.Source, &r.Upper, &r.Work}
	for i := range r.Lowers {
		paths = append(paths, &r.Lowers[i])
	}
	for _, p := range paths {
		var err error
		if *p, err = decodePath(*p); err != nil {
			return err
		}
	}
	return nil
}

const base64Prefix = "base64:"

func encodePath(s string) string {
	if utf8.ValidString(s) && !strings.HasPrefix(s, base64Prefix) {
		return s
	}
	return base64Prefix + base64.StdEncoding.EncodeToString([]byte(s))
}

func decodePath(s string) (string, error) {
	coded, ok := strings.CutPrefix(s, base64Prefix)
	if !ok {
		return s, nil
	}
	b, err := base64.StdEncoding.DecodeString(coded)
	return string(b), err
}

func (r Record) id() ID {
	dev, _ := parseDevice(r.Device)
	return ID{Mount: r.MountID, Unique: r.UniqueID, Device: dev}
}
