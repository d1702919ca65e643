package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/image"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// OpenLowersOptions say how lowers are opened without a stack.
type OpenLowersOptions struct {
	// WorkingDir is where relative paths begin.
	WorkingDir string
	// StoreDir is the store directory that all must have.
	StoreDir storepath.Dir
	// Mounts is a directory for the mount points of images. It must be of the caller's own.
	Mounts string
	// Open opens a store.
	Open func(context.Context, store.Reference) (store.Store, error)
}

// OpenLower is a lower that can be read.
type OpenLower struct {
	Name  string
	Kind  LowerKind
	Store store.Store
	Dir   string // of its objects

	mounted *image.Mounted
}

// Close closes the store, and takes the image down.
func (l *OpenLower) Close(ctx context.Context) error {
	var err error
	if l.Store != nil {
		err = l.Store.Close()
	}
	if l.mounted != nil {
		err = errors.Join(err, l.mounted.Unmount(context.WithoutCancel(ctx), false))
	}
	return err
}

// HasImage tells whether one of the lowers would have to be mounted.
func HasImage(lowers []Lower, workingDir string) (bool, error) {
	r := resolver{dir: workingDir}
	for _, l := range r.lowers(lowers, "/") {
		if l.Path == "" {
			continue
		}
		f, err := l.find()
		if err != nil {
			return false, err
		}
		if f.kind == KindImage {
			return true, nil
		}
	}
	return false, nil
}

// OpenLowers opens lowers for reading, images among them. The caller closes them. What is
// wrong with one is a [*LowerError].
func OpenLowers(ctx context.Context, lowers []Lower, o OpenLowersOptions) (all []*OpenLower, err error) {
	r := resolver{dir: o.WorkingDir}
	named := r.lowers(append([]Lower{}, lowers...), o.Mounts)
	if len(r.errs) > 0 {
		return nil, errors.Join(r.errs...)
	}
	defer func() {
		if err == nil {
			return
		}
		for _, l := range all {
			err = errors.Join(err, l.Close(ctx))
		}
	}()
	for _, l := range named {
		opened := new(OpenLower)
		all = append(all, opened)
		if err := opened.open(ctx, l, o); err != nil {
			return all, err
		}
	}
	return all, nil
}

func (l *OpenLower) open(ctx context.Context, lower Lower, o OpenLowersOptions) error {
	f, err := lower.find()
	if err != nil {
		return err
	}
	l.Name, l.Kind = f.Name, f.kind
	if f.kind == KindImage {
		if err := makeDir(f.Mount); err != nil {
			return err
		}
		if l.mounted, err = image.Mount(ctx, image.Options{Source: f.Path, Target: f.Mount}); err != nil {
			return f.fail(false, err, "it cannot be mounted")
		}
		if err := f.checkPlaces(false); err != nil {
			return err
		}
	}
	opened, err := o.Open(ctx, f.reference(o.StoreDir))
	if err != nil {
		return f.fail(false, err, "it cannot be opened")
	}
	l.Store = opened
	if dir := l.Store.Dir(); dir != o.StoreDir {
		return f.fail(false, nil, "its store directory is '%s' and not '%s'", dir, o.StoreDir)
	}
	d, ok := store.As[store.Directory](l.Store)
	if !ok || d.RealDir() == "" {
		return f.fail(false, nil, "its objects are not files of this machine; say with 'root' or 'real' where they are")
	}
	l.Dir = d.RealDir()
	return nil
}

// RemoveMountPoints removes what is left in the directory for the mount points of images when they
// have been closed, and the directory: empty directories, and nothing else.
func RemoveMountPoints(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			err = errors.Join(err, RemoveMountPoints(filepath.Join(dir, e.Name())))
		}
	}
	if rmErr := unix.Rmdir(dir); rmErr != nil {
		err = errors.Join(err, &os.PathError{Op: "rmdir", Path: dir, Err: rmErr})
	}
	return err
}

// Layers is what a stack is made of, for those who read them beside the process that serves it.
type Layers struct {
	Name         string
	StoreDir     storepath.Dir
	Layer, State string     // of the upper
	Lowers       []RunLower // known only while it is up
	// Run is the record of a stack that is up, or was; nil if there is none.
	Run *Run
}

// LayersOf gives those of a stack that is up, or that a killed process left.
func LayersOf(r *Run) (*Layers, error) {
	dir, err := storepath.ParseDir(r.StoreDir)
	if err != nil {
		return nil, fmt.Errorf("stack '%s': %w", r.Name, err)
	}
	return &Layers{Name: r.Name, StoreDir: dir, Layer: r.Layer, State: r.State, Lowers: r.Lowers, Run: r}, nil
}

// LayersOfConfig gives those of a stack that is not up.
func LayersOfConfig(c Config, workingDir string) (*Layers, error) {
	if c.StoreDir == "" {
		c.StoreDir = storepath.DefaultDir
	}
	r := resolver{dir: workingDir}
	u := r.upper(c.Upper)
	if len(r.errs) > 0 {
		return nil, errors.Join(r.errs...)
	}
	return &Layers{Name: c.Name, StoreDir: c.StoreDir, Layer: u.Layer, State: u.State}, nil
}
