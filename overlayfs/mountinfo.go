package overlayfs

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/strata-nix/strata/internal/mount"
)

// Type is the file system type of an overlay in the mount table.
const Type = "overlay"

// MountInfo is one mount as the kernel shows it.
type MountInfo struct {
	MountID    uint64   // as in mountinfo
	Target     string   // mount point
	Deleted    bool     // the mount point's directory was removed since
	FSType     string   // "overlay" for ours
	Source     string   // free text
	Device     string   // "major:minor"
	VFSOptions []string // of this mount: "rw", "nosuid", …

	// For an overlay:
	Lowers  []string // merged lowers, first wins
	Data    []string // data-only lowers
	Upper   string   // "" for a read-only merge; see UpperSpellings
	Work    string
	Options []Option // the others, in the kernel's order
}

// Option is a parameter of a mounted file system. Octal escapes of the mount
// table are resolved.
type Option struct {
	Key, Value string
	HasValue   bool
}

func (o Option) String() string {
	if !o.HasValue {
		return o.Key
	}
	return o.Key + "=" + o.Value
}

// IsOverlay reports whether the mount is an overlay.
func (m MountInfo) IsOverlay() bool { return m.FSType == Type }

// Has reports whether the file system shows the option, "key" or "key=value".
func (m MountInfo) Has(option string) bool {
	return slices.ContainsFunc(m.Options, func(o Option) bool { return o.String() == option })
}

// ReadOnly reports whether writes are refused, by the mount or by the file
// system.
func (m MountInfo) ReadOnly() bool { return slices.Contains(m.VFSOptions, "ro") || m.Has("ro") }

// UserXattr reports whether the marks are in user.overlay.* attributes.
func (m MountInfo) UserXattr() bool { return m.Has("userxattr") }

// UpperSpellings returns the directories that the upper may be. The kernel
// shows a path given as a string with the backslashes that quoted it, and one
// given as a descriptor without, so a shown backslash has two meanings.
func (m MountInfo) UpperSpellings() []string { return spellings(m.Upper) }

// WorkSpellings is [MountInfo.UpperSpellings] for the work directory.
func (m MountInfo) WorkSpellings() []string { return spellings(m.Work) }

func spellings(shown string) []string {
	if shown == "" {
		return nil
	}
	out := []string{shown}
	if plain := unquote(shown); plain != shown {
		out = append(out, plain)
	}
	return out
}

// unquote removes the backslashes that quote the next byte.
func unquote(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Errors of option strings, inside an [*OptionsError].
var (
	ErrEmptyLayer     = errors.New("empty layer name")
	ErrTrailingQuote  = errors.New("backslash at the end")
	ErrLowerAfterData = errors.New("lower after a data-only layer")
)

// OptionsError is an overlay's option string that cannot be understood.
type OptionsError struct {
	Target string // mount point, may be empty
	Option string // key of the option at fault
	Err    error
}

func (e *OptionsError) Error() string {
	return fmt.Sprintf("options of the overlay at %q: %s: %v", e.Target, e.Option, e.Err)
}
func (e *OptionsError) Unwrap() error { return e.Err }

func newMountInfo(e mount.Entry) (MountInfo, error) {
	m := MountInfo{
		MountID: e.ID, Target: e.Target, Deleted: e.Deleted,
		FSType: e.FSType, Source: e.Source, Device: e.Device.String(),
		VFSOptions: strings.Split(e.VFSOptions, ","),
	}
	if !m.IsOverlay() {
		for o := range strings.SplitSeq(e.Options, ",") {
			m.Options = append(m.Options, parseOption(o))
		}
		return m, nil
	}
	if err := m.parseOptions(e.Options); err != nil {
		return m, err
	}
	return m, nil
}

func parseOption(s string) Option {
	key, value, has := strings.Cut(s, "=")
	return Option{Key: mount.Unescape(key), Value: mount.Unescape(value), HasValue: has}
}

// parseOptions understands the forms in which kernels show an overlay: lowers
// as one colon-separated lowerdir (data-only ones after a double colon), or one
// lowerdir+ or datadir+ each.
func (m *MountInfo) parseOptions(s string) error {
	for raw := range strings.SplitSeq(s, ",") {
		key, value, _ := strings.Cut(raw, "=")
		plain := mount.Unescape(value)
		var err error
		switch key {
		case "lowerdir":
			m.Lowers, m.Data, err = splitLowerdir(value)
		case "lowerdir+":
			m.Lowers = append(m.Lowers, plain)
		case "datadir+":
			m.Data = append(m.Data, plain)
		case "upperdir":
			m.Upper = plain
		case "workdir":
			m.Work = plain
		default:
			m.Options = append(m.Options, parseOption(raw))
			continue
		}
		if err == nil && value == "" {
			err = ErrEmptyLayer
		}
		if err != nil {
			return &OptionsError{Target: m.Target, Option: key, Err: err}
		}
	}
	return nil
}

// splitLowerdir takes apart the value of lowerdir as the mount table shows it.
// Two layers of escapes lie over each other. Whoever mounted put a backslash
// before a colon, comma or backslash of a name. The kernel shows that string
// with octal escapes for blanks, commas, backslashes and, from 6.5 to 6.6, for
// the colons of names. So a colon separates when it is shown as itself and no
// backslash, in whatever form, stands before it.
func splitLowerdir(s string) (lowers, data []string, err error) {
	var name strings.Builder
	dataOnly := false
	flush := func() error {
		if name.Len() == 0 {
			return ErrEmptyLayer
		}
		if dataOnly {
			data = append(data, name.String())
		} else {
			lowers = append(lowers, name.String())
		}
		name.Reset()
		return nil
	}
	for i := 0; i < len(s); {
		c, escaped, n := next(s[i:])
		i += n
		switch {
		case c == '\\':
			if i == len(s) {
				return nil, nil, ErrTrailingQuote
			}
			c, _, n = next(s[i:])
			i += n
			name.WriteByte(c)
		case c == ':' && !escaped:
			if err := flush(); err != nil {
				return nil, nil, err
			}
			if i < len(s) && s[i] == ':' {
				dataOnly = true
				i++
			} else if dataOnly {
				return nil, nil, ErrLowerAfterData
			}
		default:
			name.WriteByte(c)
		}
	}
	return lowers, data, flush()
}

// next decodes one byte of a value in the mount table.
func next(s string) (c byte, escaped bool, n int) {
	if c, ok := mount.Octal(s); ok {
		return c, true, 4
	}
	return s[0], false, 1
}

// quoteLower writes a path for the lowerdir parameter, where backslashes quote.
func quoteLower(path string) string {
	return strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace(path)
}
