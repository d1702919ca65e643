package stack

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/strata-nix/strata/optimise"
	"github.com/strata-nix/strata/storepath"
)

// Config says what a stack is made of. Lowers and Upper.Dir are needed; all else
// has defaults, see [Config.Resolve]. The names in parentheses are the keys of
// strata.toml.
type Config struct {
	// Name tells stacks of one machine apart ("name"); the last component of Upper.Dir.
	Name string
	// Lowers are the lower stores, first wins ("lowers", "lower").
	Lowers []Lower
	Upper  Upper
	// StoreDir is the store directory that store paths begin with ("store-dir");
	// storepath.DefaultDir.
	StoreDir storepath.Dir
	// Root is a directory that stands before StoreDir and the places that clients
	// know ("root"), for a store that is used in a chroot or container; "/".
	Root string
	// Mount is where the merged store is mounted ("mount"); StoreDir below Root.
	Mount string
	// Socket is where the daemon listens ("socket"); daemon-socket/socket in
	// Upper.State, or in Upper.Dir if the state is in memory. Clients see it at
	// /nix/var/nix if the state is shown.
	Socket string
	// ShowState shows the state at /nix/var/nix below Root ("show-state"). By default
	// that is done when the store is mounted at /nix/store there.
	ShowState Choice
	// Cover allows to mount over a directory that has something in it ("cover").
	Cover bool
	// Lazy detaches mounts that are busy when the stack is taken down
	// ("lazy-unmount").
	Lazy bool
	// WaitForLowers is how long to wait for lowers that are not there yet
	// ("wait-for-lowers").
	WaitForLowers time.Duration
	// OnLowerChange says what happens when the stack comes up and its lowers are not
	// those that the upper was made for ("on-lower-change"); PivotOnChange unless set.
	OnLowerChange OnLowerChange
	// Settings are settings of nix.conf for this stack alone ("settings").
	Settings map[string]string
	// GC is the policy by which garbage of the upper is collected ("gc").
	GC Policy
	// Consumer is what owners of lowers know the stack by ("consumer"), in the roots and
	// leases that it has there; made of the name of the stack, of the machine and of
	// the upper's directory.
	Consumer string
	// Watch says how it is noticed that lowers grow ("watch", "watch-interval").
	Watch Watch
}

// Upper says where the upper layer is. What is not set lies in Dir, see the
// package comment.
type Upper struct {
	// Dir holds all that is written ("upper.dir"). One in memory has a default, see
	// [Config.UpperDir].
	Dir   string
	Layer string // the upper layer of the overlay ("upper.layer")
	Work  string // OverlayFS's work directory, on the file system of Layer ("upper.work")
	State string // Nix's state directory ("upper.state")
	Log   string // build logs ("upper.log")
	// Tmpfs is the size in bytes of a throwaway upper ("upper.tmpfs"): it is in memory
	// and goes with the stack. 0: the upper is kept.
	Tmpfs uint64
	// Reflink says whether equal files share blocks instead of an inode ("upper.reflink").
	Reflink optimise.Reflink
}

// Choice is a setting that may be left to the package.
type Choice int

// The choices.
const (
	Auto Choice = iota
	Yes
	No
)

// Places that clients know.
const (
	clientState = "/nix/var/nix"
	clientLog   = "/nix/var/log/nix"
	// socketInState is where clients look for the socket in their state directory.
	socketInState = "daemon-socket/socket"
)

// ConfigError is a mistake in a configuration: nothing was tried yet.
type ConfigError struct {
	Key string // as in strata.toml; "" if it is about the whole
	Why string
}

func (e *ConfigError) Error() string {
	if e.Key == "" {
		return e.Why
	}
	return fmt.Sprintf("%s: %s", e.Key, e.Why)
}

// Resolve fills in the defaults, makes all paths absolute, taking relative ones
// from dir, and checks what can be checked without looking at the disk. All that
// is wrong is told at once, as [*ConfigError]s. What was resolved may be changed and
// resolved again.
func (c Config) Resolve(dir string) (Config, error) {
	r := resolver{dir: dir}
	if c.StoreDir == "" {
		c.StoreDir = storepath.DefaultDir
	}
	c.Root = r.path("root", c.Root, "/")
	c.Upper.Dir = c.UpperDir()
	c.Upper = r.upper(c.Upper)
	c.Mount = r.path("mount", c.Mount, filepath.Join(c.Root, string(c.StoreDir)))
	c.Socket = r.path("socket", c.Socket, c.defaultSocket())
	if c.Name == "" && c.Upper.Dir != "" {
		c.Name = nameFrom(filepath.Base(c.Upper.Dir), "stack")
	}
	if c.Upper.Dir != "" && !validName(c.Name) {
		r.fail("name", "'%.80s' cannot name a stack: use up to %d letters, digits, '-', '_' and '.', not first", c.Name, maxName)
	}
	if c.ShowState == Auto {
		c.ShowState = No
		if c.StoreDir == storepath.DefaultDir && c.Mount == filepath.Join(c.Root, string(c.StoreDir)) {
			c.ShowState = Yes
		}
	}
	if c.Upper.State == filepath.Join(c.Root, clientState) {
		c.ShowState = No // it is there already
	}
	if c.WaitForLowers < 0 {
		r.fail("wait-for-lowers", "%s is less than nothing", c.WaitForLowers)
	}
	c.Lowers = r.lowers(slices.Clone(c.Lowers), c.Upper.Dir)
	c.Settings = r.policy(&c.GC, c.Settings)
	r.consumer(&c)
	r.watch(&c.Watch)
	return c, errors.Join(r.errs...)
}

type resolver struct {
	dir  string
	errs []error
}

func (r *resolver) fail(key, format string, args ...any) {
	r.errs = append(r.errs, &ConfigError{Key: key, Why: fmt.Sprintf(format, args...)})
}

// path makes a path absolute.
func (r *resolver) path(key, path, otherwise string) string {
	if path == "" {
		return otherwise
	}
	if strings.IndexByte(path, 0) >= 0 {
		r.fail(key, "a path cannot have a zero byte")
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(r.dir, path)
	}
	return filepath.Clean(path)
}

func (r *resolver) upper(u Upper) Upper {
	if u.Dir == "" {
		r.fail("upper.dir", "is missing: the directory for all that is written")
		return u
	}
	u.Dir = r.path("upper.dir", u.Dir, "")
	u = r.tmpfs(u)
	in := func(key, path, name string) string {
		return r.path("upper."+key, path, filepath.Join(u.Dir, name))
	}
	u.Layer = in("layer", u.Layer, "layer")
	u.Work = in("work", u.Work, "work")
	u.State = in("state", u.State, "state")
	u.Log = in("log", u.Log, "log")
	return u
}

// lowers gives every lower a name and a place.
func (r *resolver) lowers(all []Lower, upperDir string) []Lower {
	if len(all) == 0 {
		r.fail("lowers", "are missing: a layered store needs at least one lower store")
	}
	taken := map[string]bool{}
	for i := range all {
		l, key := &all[i], fmt.Sprintf("lower %d", i+1)
		if l.Path == "" == (l.Store.Scheme == "") {
			r.fail(key, "needs either a path or a store")
			continue
		}
		l.Path = r.path(key+": path", l.Path, "")
		if l.Store.Scheme != "" && l.Real+l.State+l.Mount != "" {
			r.fail(key, "'real', 'state' and 'mount' go with a path; those of a store are in its URI")
		}
		switch {
		case l.Name == "":
			l.Name = freeName(l.defaultName(), taken)
		case !validName(l.Name):
			r.fail(key, "'%.80s' cannot be its name: use up to %d letters, digits, '-', '_' and '.', not first", l.Name, maxName)
		case taken[l.Name]:
			r.fail(key, "the name '%s' is taken", l.Name)
		}
		taken[l.Name] = true
		l.place = filepath.Join(upperDir, "lowers", l.Name)
		l.Mount = r.path(key+": mount", l.Mount, "")
		absoluteLazy(&l.Store, r.dir)
		absoluteLeases(&l.Leases, r.dir)
	}
	return all
}

// maxName is short enough for files and sockets that are named after a stack.
const maxName = 64

// validName tells whether a name can be that of a file, and of a systemd unit.
func validName(s string) bool {
	if s == "" || len(s) > maxName || s[0] == '.' || s[0] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if !nameByte(c) {
			return false
		}
	}
	return true
}

func nameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.'
}

// nameFrom makes a name of a file's, with a dash for whatever cannot be in one.
func nameFrom(file, otherwise string) string {
	name := []byte(file[:min(len(file), maxName)])
	for i, c := range name {
		if !nameByte(c) {
			name[i] = '-'
		}
	}
	if s := strings.TrimLeft(string(name), "-."); s != "" {
		return s
	}
	return otherwise
}

// freeName makes a name that nobody has.
func freeName(want string, taken map[string]bool) string {
	name := want
	for n := 2; taken[name]; n++ {
		name = fmt.Sprintf("%.50s-%d", want, n)
	}
	return name
}
