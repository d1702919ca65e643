package mount

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// MaxString is the longest value, in bytes, that fsconfig(2) takes as a
// string: the kernel copies at most 256 bytes with the terminating zero.
const MaxString = 255

// Context is a file system context: the place where the parameters of a mount
// are collected before the mount exists. It is not safe for concurrent use.
// Whoever made it closes it.
type Context struct {
	fd       int
	fstype   string
	warnings []string
}

// Open starts a context for a new mount of the given file system type.
func Open(fstype string) (*Context, error) {
	fd, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, &ConfigError{FSType: fstype, Step: "fsopen", Err: err}
	}
	return &Context{fd: fd, fstype: fstype}, nil
}

// Pick starts a context that reconfigures the file system mounted at path.
// It needs CAP_SYS_ADMIN in the user namespace that made the mount.
func Pick(path string) (*Context, error) {
	fd, err := unix.Fspick(unix.AT_FDCWD, path, unix.FSPICK_CLOEXEC|unix.FSPICK_NO_AUTOMOUNT)
	if err != nil {
		return nil, &ConfigError{Step: "fspick", Value: path, Err: err}
	}
	return &Context{fd: fd}, nil
}

// Close releases the context. A mount made from it lives on.
func (c *Context) Close() error { return unix.Close(c.fd) }

// Warnings returns what the kernel said so far without failing.
func (c *Context) Warnings() []string { return c.warnings }

// SetString sets a parameter to a string of at most [MaxString] bytes.
func (c *Context) SetString(key, value string) error {
	return c.done("set", key, value, unix.FsconfigSetString(c.fd, key, value))
}

// SetFlag sets a parameter that has no value.
func (c *Context) SetFlag(key string) error {
	return c.done("set", key, "", unix.FsconfigSetFlag(c.fd, key))
}

// SetFD sets a parameter to an open file; name is what errors call it.
func (c *Context) SetFD(key string, fd int, name string) error {
	return c.done("set", key, name, unix.FsconfigSetFd(c.fd, key, fd))
}

// Create makes the file system.
func (c *Context) Create() error {
	return c.done("create", "", "", unix.FsconfigCreate(c.fd))
}

// Reconfigure applies the parameters to the picked file system.
func (c *Context) Reconfigure() error {
	return c.done("reconfigure", "", "", unix.FsconfigReconfigure(c.fd))
}

// Mount makes a detached mount of the created file system. attr is a set of
// MOUNT_ATTR_ flags. The caller closes the result.
func (c *Context) Mount(attr int) (*Detached, error) {
	fd, err := unix.Fsmount(c.fd, unix.FSMOUNT_CLOEXEC, attr)
	if err := c.done("fsmount", "", "", err); err != nil {
		return nil, err
	}
	return &Detached{fd: fd}, nil
}

// done turns the outcome of one call into an error that carries the kernel's
// own words about it.
func (c *Context) done(step, key, value string, err error) error {
	said := c.drain()
	if err == nil {
		c.warnings = append(c.warnings, said...)
		return nil
	}
	return &ConfigError{FSType: c.fstype, Step: step, Key: key, Value: value, Said: said, Err: err}
}

// drain reads the messages the kernel queued on the context. Each read gives
// one message, "e text" for an error, w a warning, i a remark.
func (c *Context) drain() []string {
	var said []string
	buf := make([]byte, 4096)
	for range 64 { // the kernel's ring holds 8
		n, err := unix.Read(c.fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			break
		}
		said = append(said, message(string(buf[:n])))
	}
	return said
}

// message strips the severity letter and the newline.
func message(s string) string {
	s = strings.TrimRight(s, "\n")
	if len(s) > 2 && s[1] == ' ' && strings.IndexByte("ewi", s[0]) >= 0 {
		s = s[2:]
	}
	return s
}

// ConfigError is a refused step of making or changing a mount.
type ConfigError struct {
	FSType string   // "overlay", "erofs"; empty when an existing mount was picked
	Step   string   // "fsopen", "fspick", "set", "create", "reconfigure", "fsmount"
	Key    string   // the parameter, for "set"
	Value  string   // its value, or the path that was picked
	Said   []string // what the kernel wrote to the context, oldest first
	Err    error    // the errno
}

func (e *ConfigError) Error() string {
	var b strings.Builder
	switch e.Step {
	case "set":
		fmt.Fprintf(&b, "the kernel refuses %s parameter %s", e.FSType, e.Key)
		if e.Value != "" {
			fmt.Fprintf(&b, "=%q", e.Value)
		}
	case "create":
		fmt.Fprintf(&b, "the kernel refuses to make this %s file system", e.FSType)
	case "fspick":
		fmt.Fprintf(&b, "fspick %q", e.Value)
	default:
		b.WriteString(strings.TrimSpace(e.Step + " " + e.FSType))
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	if len(e.Said) > 0 {
		fmt.Fprintf(&b, " (kernel: %s)", strings.Join(e.Said, "; "))
	}
	return b.String()
}

func (e *ConfigError) Unwrap() error { return e.Err }

// Unsupported reports whether err means that this kernel does not know the
// parameter, or not in the form it was given. Both are EINVAL, told apart from
// a bad value only by the kernel's words.
func Unsupported(err error) bool {
	var ce *ConfigError
	if !errors.As(err, &ce) || !errors.Is(ce.Err, unix.EINVAL) {
		return false
	}
	for _, s := range ce.Said {
		if strings.Contains(s, "Unknown parameter") || strings.Contains(s, "Bad value for") {
			return true
		}
	}
	return false
}
