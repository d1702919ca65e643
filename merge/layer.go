package merge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Take says what of a layer gets in.
type Take int

// What gets in.
const (
	// Infos takes no objects. Path infos are taken where something refers to them.
	Infos Take = iota
	// Referred takes objects that something refers to that gets in.
	Referred
	// All takes all objects.
	All
)

// Layer is a store whose objects are files.
type Layer struct {
	// Name is what errors and reports call it.
	Name string
	// Store answers for what is valid in this layer. With Take All it lists that, too
	// ([store.Lister]). A path that is valid and whose object is not in Dir has its
	// object in a layer below.
	Store store.Store
	// Dir is the directory of the layer's own objects.
	Dir  string
	Take Take
}

// path is where the layer has an object.
func (l *Layer) path(p storepath.Path) string { return filepath.Join(l.Dir, p.Base()) }

// has tells whether the layer has the object of a path. What OverlayFS puts into an upper
// layer for something that is not there is none.
func (l *Layer) has(p storepath.Path) (bool, error) {
	var st unix.Stat_t
	err := unix.Lstat(l.path(p), &st)
	switch {
	case errors.Is(err, unix.ENOENT):
		return false, nil
	case err != nil:
		return false, l.wrap(&fs.PathError{Op: "lstat", Path: l.path(p), Err: err})
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK:
		return true, nil
	}
	return false, nil
}

func (l *Layer) wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("layer '%s': %w", l.Name, err)
}

// list gives the paths that a layer says are valid.
func (l *Layer) list(ctx context.Context) ([]storepath.Path, error) {
	all, err := store.Need[store.Lister](l.Store, "listing all paths")
	if err != nil {
		return nil, l.wrap(err)
	}
	var out []storepath.Path
	for p, err := range all.AllPaths(ctx) {
		if err != nil {
			return nil, l.wrap(err)
		}
		out = append(out, p)
	}
	return out, nil
}

// database is that of the layer, if it is one of this machine.
func (l *Layer) database() *nixdb.DB {
	if s, ok := store.As[interface{ DB() *nixdb.DB }](l.Store); ok {
		return s.DB()
	}
	return nil
}
