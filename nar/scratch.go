package nar

import (
	"context"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Scratch is a directory in which many archives are unpacked, one beside the other. What
// [Restore] does for each archive, because it knows nothing of the directory, is done
// once: for small objects that is a quarter of the system calls.
type Scratch struct {
	dir   *os.File
	maker maker
}

// OpenScratch opens a directory that is the caller's own: nobody else changes what it
// has in it, or its mode and ACLs. A default ACL, which all that is made in it would
// inherit, is taken off it unless opts want to keep such things. The caller closes it.
func OpenScratch(path string, opts RestoreOptions) (*Scratch, error) {
	fd, err := openat(unix.AT_FDCWD, path, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, pathError("open", path, err)
	}
	s := &Scratch{dir: os.NewFile(uintptr(fd), path)}
	s.maker.keep, s.maker.sync, s.maker.bare = opts.KeepMetadata, opts.Sync, true
	if !opts.KeepMetadata {
		if err := dropInheritedACL(fd); err != nil {
			_ = s.dir.Close() // nothing was written through it
			return nil, pathError("removexattr", path, err)
		}
	}
	return s, nil
}

// Restore is [RestoreAt] for a new entry of the directory. Several may be under way at
// the same time.
func (s *Scratch) Restore(ctx context.Context, r io.Reader, name string) (Stats, error) {
	return restoreAt(ctx, r, s.dir, name, &s.maker)
}

// At is the path of an entry.
func (s *Scratch) At(name string) string { return s.dir.Name() + "/" + name }

// Close gives the directory back, with all that is in it.
func (s *Scratch) Close() error { return s.dir.Close() }
