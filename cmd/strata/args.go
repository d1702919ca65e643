package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/strata-nix/strata/storepath"
)

// maxLinks is how many symlinks may lead to the store.
const maxLinks = 40

// insidePath names a store object, or a file in one.
type insidePath struct {
	path storepath.Path
	rest string // "", or with a leading slash
}

// parseInside reads an argument that names a store object or a file in one: a
// path in the store directory, the name of an object in it, or a symlink of the
// file system that leads there, such as a gc root.
func parseInside(dir storepath.Dir, arg string) (insidePath, error) {
	if p, err := storepath.ParseBase(arg); err == nil {
		return insidePath{path: p}, nil
	}
	at, err := filepath.Abs(arg)
	if err != nil {
		return insidePath{}, &usageError{err}
	}
	for range maxLinks {
		if inDir(dir, at) {
			break
		}
		target, err := followOne(at)
		if err != nil {
			return insidePath{}, fmt.Errorf("'%s' does not lead to the store: %w", arg, err)
		}
		if target == at {
			break
		}
		at = target
	}
	p, rest, err := dir.Split(at)
	if err != nil {
		return insidePath{}, &usageError{err}
	}
	return insidePath{p, rest}, nil
}

func inDir(dir storepath.Dir, path string) bool {
	return path == string(dir) || strings.HasPrefix(path, string(dir)+"/")
}

// followOne resolves the first symlink on the way to path, if there is one.
// Where the path ends early there is nothing to follow.
func followOne(path string) (string, error) {
	for i := 1; i <= len(path); i++ {
		if i < len(path) && path[i] != '/' {
			continue
		}
		fi, err := os.Lstat(path[:i])
		if errors.Is(err, fs.ErrNotExist) {
			return path, nil
		}
		if err != nil {
			return "", err
		}
		if fi.Mode().Type() != fs.ModeSymlink {
			continue
		}
		target, err := os.Readlink(path[:i])
		if err != nil {
			return "", err
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path[:i]), target)
		}
		return filepath.Clean(target + path[i:]), nil
	}
	return path, nil
}

// parseObjects reads arguments that name store objects.
func parseObjects(dir storepath.Dir, args []string) ([]storepath.Path, error) {
	paths := make([]storepath.Path, len(args))
	for i, arg := range args {
		in, err := parseInside(dir, arg)
		if err != nil {
			return nil, err
		}
		if in.rest != "" {
			return nil, &usageError{fmt.Errorf("'%s' is a file in a store object; name the object, %s", arg, dir.Print(in.path))}
		}
		paths[i] = in.path
	}
	return paths, nil
}
