package stack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/unixsocket"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// LowerKind is the form in which a lower comes.
type LowerKind string

// The kinds.
const (
	KindDirectory LowerKind = "directory"
	KindImage     LowerKind = "image"
	KindStore     LowerKind = "store" // by its URI
	KindLazy      LowerKind = "lazy"  // binary caches, whose objects arrive when they are read
)

// A store below a root is at these places, whatever its store directory is.
const (
	storeInRoot = "nix/store"
	stateInRoot = "nix/var/nix"
	dbInState   = "db/db.sqlite"
)

// found is a lower whose form is known.
type found struct {
	Lower
	kind LowerKind
	// real and state are where the objects and the database are once everything is
	// mounted. Of a store by its URI, which knows itself, real is "", and state only what
	// the URI says.
	real, state string
	// roots is where the stack may register what it leans on, if the owner of the lower
	// has made that place; it may not be there.
	roots string
	// lazyState is where the state of a lazy lower's mount is.
	lazyState string
	// conn is the connection of its mount, if that was kept and is to be served again.
	conn *os.File
	// hidden tells that the stack's own mounts would cover the lower, so that it is
	// bound to another place first.
	hidden bool
}

// find looks at a lower without waking more of it than is needed. What is not
// there yet is a [*LowerError] with Absent.
func (l Lower) find() (*found, error) {
	f := &found{Lower: l, kind: KindStore}
	if l.Store.Scheme == LazyScheme {
		f.kind, f.real, f.lazyState = KindLazy, l.place, l.place+lazyStateSuffix
		return f, nil
	}
	if l.Path == "" {
		f.state = stateOf(l.Store)
		f.roots = rootsPlace(f.state)
		return f, l.findSocket()
	}
	st, err := os.Stat(l.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, l.fail(true, nil, "it does not exist")
	case err != nil:
		return nil, l.fail(false, err, "it cannot be looked at")
	case st.IsDir():
		f.kind = KindDirectory
		f.real, f.state = l.inside(l.Path)
		f.roots = rootsPlace(f.state)
		return f, f.checkPlaces(true)
	}
	f.kind = KindImage
	if f.Mount == "" {
		f.Mount = l.place
	}
	f.real, f.state = l.inside(f.Mount)
	return f, nil
}

// inside gives the places of the store below a root.
func (l *Lower) inside(root string) (real, state string) {
	at := func(path, otherwise string) string {
		switch {
		case path == "":
			return filepath.Join(root, otherwise)
		case filepath.IsAbs(path):
			return path
		}
		return filepath.Join(root, path)
	}
	return at(l.Real, storeInRoot), at(l.State, stateInRoot)
}

func (l *Lower) fail(absent bool, err error, format string, args ...any) error {
	return &LowerError{Lower: l.Name, Given: l.String(), Why: fmt.Sprintf(format, args...), Err: err, Absent: absent}
}

// checkPlaces makes sure that objects and database are there.
func (f *found) checkPlaces(mayCome bool) error {
	st, err := os.Stat(f.real)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f.fail(mayCome, nil, "there is no store in it: '%s' does not exist%s", f.real, f.hint())
	case err != nil:
		return f.fail(false, err, "its objects cannot be reached")
	case !st.IsDir():
		return f.fail(false, nil, "'%s' is not a directory", f.real)
	}
	db := filepath.Join(f.state, dbInState)
	_, err = os.Stat(db)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f.fail(mayCome, nil, "it has no database: '%s' does not exist; if it is at another place, say so with 'state'", db)
	case err != nil:
		return f.fail(false, err, "its database cannot be reached")
	}
	return nil
}

// hint knows what people give instead of a root.
func (f *found) hint() string {
	if root, ok := strings.CutSuffix(f.Path, "/"+storeInRoot); ok && f.Real == "" {
		return fmt.Sprintf("; the directory that stands before nix/store is meant, '%s'", filepath.Clean("/"+root))
	}
	if f.Real == "" {
		return "; if the objects are at another place, say so with 'real'"
	}
	return ""
}

// findSocket sees whether a daemon answers, if the lower is one.
func (l *Lower) findSocket() error {
	path := l.Store.Authority
	if l.Store.Scheme != "unix" || path == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c, err := unixsocket.Dial(ctx, path)
	if err != nil {
		absent := errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED)
		return l.fail(absent, err, "no daemon answers")
	}
	return c.Close()
}

// reference is what the lower is opened by.
func (f *found) reference(dir storepath.Dir) store.Reference {
	switch f.kind {
	case KindStore:
		return readOnly(f.Store)
	case KindLazy:
		return f.lazyReference(string(dir))
	}
	p := map[string][]string{"read-only": {"true"}}
	root := f.Path
	if f.kind == KindImage {
		root = f.Mount
	}
	if real, state := (&Lower{}).inside(root); !f.hidden && f.real == real && f.state == state {
		p["root"] = []string{root}
	} else {
		p["real"], p["state"] = []string{f.real}, []string{f.state}
	}
	if dir != storepath.DefaultDir {
		p["store"] = []string{string(dir)}
	}
	return store.Reference{Scheme: "local", Params: p}
}

// readOnly adds the parameter to stores that have it and would else write to
// their directories when they are opened.
func readOnly(ref store.Reference) store.Reference {
	if ref.Scheme != "local" && ref.Scheme != "local-overlay" || ref.Param("read-only") != "" {
		return ref
	}
	params := map[string][]string{"read-only": {"true"}}
	for k, v := range ref.Params {
		params[k] = v
	}
	ref.Params = params
	return ref
}

// findAll finds all lowers, waiting for those that may yet come. What it waits
// for is told when it changes.
func (c *Config) findAll(ctx context.Context) ([]*found, error) {
	const shortest, longest = 20 * time.Millisecond, 2 * time.Second
	deadline := time.NewTimer(c.WaitForLowers)
	defer deadline.Stop()
	told := ""
	for pause := shortest; ; pause = min(2*pause, longest) {
		all, err := c.findOnce()
		var missing *LowerError
		if err == nil || c.WaitForLowers == 0 || !errors.As(err, &missing) || !missing.Absent {
			return all, err
		}
		if told != missing.Error() {
			told = missing.Error()
			activity.Logf(ctx, activity.Info, "waiting for %s", told)
			pause = shortest
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-deadline.C:
			missing.Why = fmt.Sprintf("after %s: %s", c.WaitForLowers, missing.Why)
			return nil, missing
		case <-time.After(pause):
		}
	}
}

func (c *Config) findOnce() ([]*found, error) {
	all := make([]*found, len(c.Lowers))
	for i, l := range c.Lowers {
		f, err := l.find()
		if err != nil {
			return nil, err
		}
		if err := c.apart(f); err != nil {
			return nil, err
		}
		all[i] = f
	}
	return all, nil
}

// apart sees that nothing of the upper would be made among the objects of a lower, which is never
// written to.
func (c *Config) apart(f *found) error {
	if f.kind != KindDirectory {
		return nil
	}
	objects, err := filepath.EvalSymlinks(f.real)
	if err != nil {
		return nil //nolint:nilerr // whoever opens it says so
	}
	u := &c.Upper
	for _, p := range []struct{ key, dir string }{
		{"upper.dir", u.Dir}, {"upper.layer", u.Layer}, {"upper.work", u.Work}, {"upper.state", u.State}, {"upper.log", u.Log},
	} {
		if dir := resolveStart(p.dir); dir == objects || strings.HasPrefix(dir, objects+"/") {
			return &ConfigError{Key: p.key, Why: fmt.Sprintf("'%s' lies among the objects of lower '%s', which is never written to", p.dir, f.Name)}
		}
	}
	return nil
}

// resolveStart resolves the symlinks of a path as far as it is there.
func resolveStart(path string) string {
	for start, rest := path, ""; ; start, rest = filepath.Dir(start), filepath.Join(filepath.Base(start), rest) {
		if real, err := filepath.EvalSymlinks(start); err == nil {
			return filepath.Join(real, rest)
		}
		if start == "/" || start == "." {
			return path
		}
	}
}
