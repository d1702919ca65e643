package builtin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/nar"
)

// maxEnvironment is the number of symlinks and directories that an environment
// can have. Packages can be made so that it would have no end.
const maxEnvironment = 1 << 20

// A profile is an environment that is being put together, in memory.
type profile struct {
	ctx       context.Context
	view      *view
	out       string // its name in messages
	root      *node
	size      int
	done      map[string]bool // packages that were added
	postponed []string        // packages that others propagate
}

// A node is a directory, or a symlink to something in a package.
type node struct {
	entries  map[string]*node // nil for symlinks
	target   string
	priority int
}

func newNode() *node { return &node{entries: make(map[string]*node)} }

// ConflictError is for two packages of the same priority that have the same file.
type ConflictError struct {
	FileA, FileB string
	Priority     int
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("Unable to build profile. There is a conflict for the following files:\n\n  \"%s\"\n  \"%s\"\n\nBoth have priority %d.",
		e.FileA, e.FileB, e.Priority)
}

// link adds what is in the directory src to the node dst, whose name is at.
func (p *profile) link(src string, dst *node, at string, priority, depth int) error {
	if depth >= nar.MaxDepth {
		return fmt.Errorf("'%s': %w", at, nar.ErrTooDeep)
	}
	dir, err := p.view.find(src)
	if err != nil {
		return err
	}
	defer dir.close()
	if !dir.isDir() {
		activity.Warnf(p.ctx, "not including \"%s\" in the user environment because it's not a directory", src)
		return nil
	}
	f, err := dir.open()
	if err != nil {
		return err
	}
	defer f.Close()
	found, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(found)
	for _, name := range found {
		if err := context.Cause(p.ctx); err != nil {
			return err
		}
		if name[0] == '.' || ignored(src, name) {
			continue
		}
		isDir, err := p.isDir(f, src, name)
		if errors.Is(err, fs.ErrNotExist) {
			activity.Warnf(p.ctx, "skipping dangling symlink '%s/%s'", at, name)
			continue
		} else if err != nil {
			return err
		}
		if err := p.entry(src+"/"+name, isDir, dst, at, name, priority, depth); err != nil {
			return err
		}
	}
	return nil
}

// ignored are files that are of no use in an environment, or that all packages
// of some kind have.
func ignored(dir, name string) bool {
	switch name {
	case "propagated-build-inputs", "nix-support", "perllocal.pod", "log", "manifest.nix", "manifest.json":
		return true
	case "dir":
		return path.Base(dir) == "info"
	}
	return false
}

// isDir looks at an entry of a directory, through symlinks.
func (p *profile) isDir(dir *os.File, src, name string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, &fs.PathError{Op: "stat", Path: src + "/" + name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
	}
	at, err := p.view.find(src + "/" + name)
	if err != nil {
		return false, err
	}
	defer at.close()
	return at.isDir(), nil
}

// entry adds one file or directory of a package.
func (p *profile) entry(src string, isDir bool, dst *node, at, name string, priority, depth int) error {
	old := dst.entries[name]
	at += "/" + name
	switch {
	case old == nil:
		if p.size++; p.size > maxEnvironment {
			return fmt.Errorf("the environment has more than %d entries", maxEnvironment)
		}
	case isDir && old.entries != nil:
		return p.link(src, old, at, priority, depth+1)
	case isDir:
		return p.merge(old, src, dst, at, name, priority, depth)
	case old.entries != nil:
		return fmt.Errorf("collision between non-directory '%s' and directory '%s'", src, at)
	case old.priority == priority:
		return &ConflictError{FileA: old.target, FileB: src, Priority: priority}
	case old.priority < priority:
		return nil
	}
	dst.entries[name] = &node{target: src, priority: priority}
	return nil
}

// merge makes a directory of a symlink to one, so that another can be added.
func (p *profile) merge(old *node, src string, dst *node, at, name string, priority, depth int) error {
	target, err := p.view.find(old.target)
	if err != nil {
		return err
	}
	target.close()
	if !target.isDir() {
		return fmt.Errorf("collision between \"%s\" and non-directory \"%s\"", src, target.path)
	}
	both := newNode()
	dst.entries[name] = both
	if err := p.link(target.path, both, at, old.priority, depth+1); err != nil {
		return err
	}
	return p.link(src, both, at, priority, depth+1)
}

// write makes the environment as a directory.
func (p *profile) write(out string) error {
	if err := os.Mkdir(out, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	root, err := os.OpenRoot(out)
	if err != nil {
		return err
	}
	defer root.Close()
	return p.writeDir(root, p.root)
}

func (p *profile) writeDir(dir *os.Root, n *node) error {
	if err := context.Cause(p.ctx); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(n.entries)) {
		e := n.entries[name]
		if e.entries == nil {
			if err := dir.Symlink(e.target, name); err != nil {
				return err
			}
			continue
		}
		if err := dir.Mkdir(name, 0o755); err != nil {
			return err
		}
		sub, err := dir.OpenRoot(name)
		if err != nil {
			return err
		}
		err = p.writeDir(sub, e)
		if err = errors.Join(err, sub.Close()); err != nil {
			return err
		}
	}
	return nil
}
