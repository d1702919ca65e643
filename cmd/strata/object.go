package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// object is a store object to look into. It reads the files where they are if
// the store is a directory of this machine, and else the object's NAR.
type object struct {
	st   store.Store
	path storepath.Path
	full string
	dir  string // where the files are; "" if only the NAR can be had
}

// openObject fails when the path is not valid.
func openObject(ctx context.Context, st store.Store, p storepath.Path) (*object, error) {
	if _, err := store.PathInfoOf(ctx, st, p); err != nil {
		return nil, err
	}
	o := &object{st: st, path: p, full: st.Dir().Print(p)}
	if d, ok := store.As[store.Directory](st); ok {
		// Of a daemon's store we only suppose where its files are.
		if _, err := os.Lstat(filepath.Join(d.RealDir(), p.Base())); err == nil {
			o.dir = d.RealDir()
		}
	}
	return o, nil
}

// visitor gets a file and its contents, which only regular files have. It may
// return fs.SkipAll.
type visitor func(e nar.Entry, contents io.Reader) error

// cat writes the contents of the regular file at rest, which is "" or begins
// with a slash.
func (o *object) cat(ctx context.Context, rest string, w io.Writer) error {
	return o.walk(ctx, rest, 0, func(e nar.Entry, contents io.Reader) error {
		switch e.Type {
		case nar.TypeRegular:
			_, err := io.Copy(w, contents)
			return err
		case nar.TypeSymlink:
			return fmt.Errorf("'%s%s' is a symlink to '%s', not a regular file", o.full, rest, e.Target)
		default:
			return fmt.Errorf("'%s%s' is a %s, not a regular file", o.full, rest, e.Type)
		}
	})
}

// walk visits the file at rest and what lies at most depth levels below it,
// directories before what is in them, in the order of names. The paths of the
// entries are relative to rest.
func (o *object) walk(ctx context.Context, rest string, depth int, visit visitor) error {
	var err error
	if o.dir != "" {
		err = o.walkFiles(ctx, rest, depth, visit)
	} else {
		err = o.walkNAR(ctx, rest, depth, visit)
	}
	if errors.Is(err, fs.SkipAll) {
		return nil
	}
	return err
}

func (o *object) absent(rest string) error {
	return &absentError{fmt.Sprintf("there is no file '%s' in '%s'", strings.TrimPrefix(rest, "/"), o.full)}
}

// walkNAR reads the object's archive up to the end of what is asked for.
func (o *object) walkNAR(ctx context.Context, rest string, depth int, visit visitor) error {
	archive, err := store.OpenNar(ctx, o.st, o.path)
	if err != nil {
		return err
	}
	defer archive.Close()
	want, found := strings.TrimPrefix(rest, "/"), false
	r := nar.NewReader(bufio.NewReaderSize(archive, 64<<10))
	for {
		e, err := r.Next()
		if err == io.EOF { //nolint:errorlint // Next's contract
			if !found {
				return o.absent(rest)
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading '%s': %w", o.full, err)
		}
		inside, ok := below(e.Path, want)
		if !ok && found {
			return nil
		}
		if !ok || levels(inside) > depth {
			continue
		}
		found, e.Path = true, inside
		if err := visit(e, r); err != nil {
			return err
		}
	}
}

// below gives path relative to dir, if it is dir or lies below it.
func below(path, dir string) (string, bool) {
	if dir == "" || path == dir {
		return strings.TrimPrefix(path, dir), true
	}
	return strings.CutPrefix(path, dir+"/")
}

func levels(rel string) int {
	if rel == "" {
		return 0
	}
	return strings.Count(rel, "/") + 1
}

// walkFiles reads the files themselves.
func (o *object) walkFiles(ctx context.Context, rest string, depth int, visit visitor) error {
	root, err := os.OpenRoot(o.dir)
	if err != nil {
		return fmt.Errorf("open store directory: %w", err)
	}
	defer root.Close()
	top := path.Join(o.path.Base(), rest)
	if err := o.noSymlinkBefore(root, top); err != nil {
		return err
	}
	w := &fileWalk{root: root, depth: depth, visit: visit}
	err = w.file(ctx, top, "")
	if errors.Is(err, fs.ErrNotExist) {
		return o.absent(rest)
	}
	return err
}

// fileWalk is a walk through files.
type fileWalk struct {
	root  *os.Root
	depth int
	visit visitor
}

// file visits what is called name in the root, and rel for the visitor.
func (w *fileWalk) file(ctx context.Context, name, rel string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	e, err := entryOf(w.root, name)
	if err != nil {
		return err
	}
	e.Path = rel
	f := &lazyFile{root: w.root, name: name}
	err = w.visit(e, f)
	f.close()
	if err != nil || e.Type != nar.TypeDirectory || levels(rel) >= w.depth {
		return err
	}
	entries, err := fs.ReadDir(w.root.FS(), name)
	if err != nil {
		return err
	}
	for _, d := range entries {
		if err := w.file(ctx, path.Join(name, d.Name()), path.Join(rel, d.Name())); err != nil {
			return err
		}
	}
	return nil
}

// noSymlinkBefore keeps a path through a symlink from leading to other objects.
func (o *object) noSymlinkBefore(root *os.Root, top string) error {
	for i, c := range top {
		if c != '/' {
			continue
		}
		fi, err := root.Lstat(top[:i])
		if errors.Is(err, fs.ErrNotExist) {
			return o.absent(strings.TrimPrefix(top, o.path.Base()))
		}
		if err != nil {
			return err
		}
		if !fi.IsDir() {
			return &absentError{fmt.Sprintf("'%s' is not a directory", filepath.Join(string(o.st.Dir()), top[:i]))}
		}
	}
	return nil
}

func entryOf(root *os.Root, name string) (nar.Entry, error) {
	fi, err := root.Lstat(name)
	if err != nil {
		return nar.Entry{}, err
	}
	switch fi.Mode().Type() {
	case 0:
		return nar.Entry{Type: nar.TypeRegular, Executable: fi.Mode()&0o100 != 0, Size: fi.Size()}, nil
	case fs.ModeDir:
		return nar.Entry{Type: nar.TypeDirectory}, nil
	case fs.ModeSymlink:
		target, err := root.Readlink(name)
		return nar.Entry{Type: nar.TypeSymlink, Target: target}, err
	}
	return nar.Entry{}, fmt.Errorf("'%s': %w", name, nar.ErrUnsupportedType)
}

// lazyFile is opened when somebody begins to read it.
type lazyFile struct {
	root *os.Root
	name string
	f    *os.File
}

func (l *lazyFile) Read(p []byte) (int, error) {
	if l.f == nil {
		f, err := l.root.Open(l.name)
		if err != nil {
			return 0, err
		}
		l.f = f
	}
	return l.f.Read(p)
}

func (l *lazyFile) close() {
	if l.f != nil {
		_ = l.f.Close()
	}
}
