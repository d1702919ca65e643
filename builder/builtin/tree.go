package builtin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/strata-nix/strata/nar"
)

// Limits of what is unpacked. A few kilobytes can hold any number of files of
// any size.
const (
	MaxUnpacked = 16 << 30 // bytes in files
	MaxEntries  = 2 << 20
	MaxNames    = 256 << 20 // bytes in all names, which are kept in memory
)

// ErrUnpackLimit is for archives that exceed one of the limits.
var ErrUnpackLimit = errors.New("the archive is too large")

// A tree is what an archive is unpacked to. What was made is known, so that
// nothing is ever made through a symlink; and os.Root would not let it out.
type tree struct {
	ctx   context.Context
	root  *os.Root
	kinds map[string]fs.FileMode // type of all that is there, by path
	bytes int64                  // in files
	names int64
}

func newTree(ctx context.Context, dir string) (*tree, error) {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &tree{ctx: ctx, root: root, kinds: map[string]fs.FileMode{".": fs.ModeDir}}, nil
}

// top lists what lies at the root.
func (t *tree) top() []string {
	var names []string
	for p := range t.kinds {
		if p != "." && !strings.Contains(p, "/") {
			names = append(names, p)
		}
	}
	slices.Sort(names)
	return names
}

// An EntryError says what is wrong with something in an archive.
type EntryError struct {
	Name string // as in the archive
	Err  error
}

func (e *EntryError) Error() string { return fmt.Sprintf("entry %.300q: %v", e.Name, e.Err) }

func (e *EntryError) Unwrap() error { return e.Err }

// place is where an entry goes, relative to the root. As in upstream, a leading
// slash means nothing and ".." is refused.
func (t *tree) place(name string) (string, error) {
	if err := context.Cause(t.ctx); err != nil {
		return "", err
	}
	if strings.ContainsRune(name, 0) || slices.Contains(strings.Split(name, "/"), "..") {
		return "", errors.New("its name leads out of the archive")
	}
	p := strings.TrimPrefix(path.Clean("/"+name), "/")
	if p == "" {
		return ".", nil
	}
	if strings.Count(p, "/")+2 > nar.MaxDepth {
		return "", nar.ErrTooDeep
	}
	return p, nil
}

func (t *tree) add(p string, kind fs.FileMode) error {
	if len(t.kinds) > MaxEntries {
		return fmt.Errorf("%w: more than %d entries", ErrUnpackLimit, MaxEntries)
	}
	if t.names += int64(len(p)); t.names > MaxNames {
		return fmt.Errorf("%w: more than %d bytes of names", ErrUnpackLimit, MaxNames)
	}
	t.kinds[p] = kind
	return nil
}

// directory makes a directory, and those above it, unless they are there.
func (t *tree) directory(p string) error {
	if kind, ok := t.kinds[p]; ok {
		if kind != fs.ModeDir {
			return fmt.Errorf("'%s' is not a directory", p)
		}
		return nil
	}
	if err := t.directory(path.Dir(p)); err != nil {
		return err
	}
	if err := t.root.Mkdir(p, 0o755); err != nil {
		return err
	}
	return t.add(p, fs.ModeDir)
}

// vacate makes room for something that is no directory: what came later wins.
func (t *tree) vacate(p string) error {
	if err := t.directory(path.Dir(p)); err != nil {
		return err
	}
	kind, ok := t.kinds[p]
	switch {
	case !ok:
		return nil
	case kind == fs.ModeDir:
		return fmt.Errorf("'%s' is a directory already", p)
	}
	delete(t.kinds, p)
	return t.root.Remove(p)
}

func (t *tree) file(p string, executable bool, size int64, r io.Reader) error {
	// Before anything is written: the size of a sparse file costs nothing to claim.
	if size < 0 || size > MaxUnpacked-t.bytes {
		return fmt.Errorf("%w: more than %d bytes", ErrUnpackLimit, int64(MaxUnpacked))
	}
	t.bytes += size
	if err := t.vacate(p); err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if executable {
		mode = 0o755
	}
	f, err := t.root.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if err := t.add(p, 0); err != nil {
		return errors.Join(err, f.Close())
	}
	return errors.Join(copyExactly(f, &interruptible{t.ctx, r}, size), f.Close())
}

// copyExactly copies size bytes, after which the source must have ended: that is
// when it looks at checksums.
func copyExactly(w io.Writer, r io.Reader, size int64) error {
	if _, err := io.CopyN(w, r, size); err == io.EOF {
		return io.ErrUnexpectedEOF
	} else if err != nil {
		return err
	}
	var more [1]byte
	if n, err := io.ReadFull(r, more[:]); n > 0 {
		return errors.New("it is larger than announced")
	} else if err != io.EOF {
		return err
	}
	return nil
}

func (t *tree) symlink(p, target string) error {
	if target == "" || len(target) > nar.MaxTarget || strings.ContainsRune(target, 0) {
		return errors.New("its target is impossible")
	}
	if err := t.vacate(p); err != nil {
		return err
	}
	if err := t.root.Symlink(target, p); err != nil {
		return err
	}
	return t.add(p, fs.ModeSymlink)
}

// hardLink gives something another name.
func (t *tree) hardLink(p, target string) error {
	old, err := t.place(target)
	if err != nil {
		return err
	}
	kind, ok := t.kinds[old]
	if !ok || kind == fs.ModeDir {
		return fmt.Errorf("it is a link to %.300q, which is no file of the archive", target)
	}
	if old == p {
		return nil
	}
	if err := t.vacate(p); err != nil {
		return err
	}
	if err := t.root.Link(old, p); err != nil {
		return err
	}
	return t.add(p, kind)
}
