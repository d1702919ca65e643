package local

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/optimise"
)

// links takes the links of files away that no object has any more, for one garbage
// collection: only then do the files leave the disk.
type links struct {
	s     *Store
	names map[uint64]string // by inode; nil until they are needed
}

// at is where a link is seen, and where it is deleted from.
func (l *links) at(name string) (seen, real string) {
	return filepath.Join(l.s.layer.Deletable, optimise.LinksName, name), filepath.Join(l.s.real, optimise.LinksName, name)
}

// load notes what links there are.
func (l *links) load() error {
	if l.names != nil {
		return nil
	}
	l.names = map[uint64]string{}
	dir, _ := l.at("")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		var st unix.Stat_t
		if unix.Lstat(filepath.Join(dir, e.Name()), &st) == nil {
			l.names[st.Ino] = e.Name()
		}
	}
	return nil
}

// remove deletes entries of the store directory, as Layering.Remove, and then the
// links that were theirs alone, so that what it counts has really left the disk
// before anybody asks whether that is enough.
func (l *links) remove(ctx context.Context, names []string) (uint64, error) {
	if err := l.load(); err != nil {
		return 0, err
	}
	var mine []string
	if len(l.names) > 0 {
		for _, n := range names {
			mine = append(mine, l.of(n)...)
		}
	}
	freed, err := l.s.layer.Remove(ctx, names)
	for _, name := range mine {
		freed += l.drop(name)
	}
	return freed, err
}

// of are the links of the files of an object that have no other names.
func (l *links) of(object string) (mine []string) {
	_ = filepath.WalkDir(filepath.Join(l.s.layer.Deletable, object), func(path string, e fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err != nil || e.IsDir() || unix.Lstat(path, &st) != nil || st.Nlink != 2 {
			return nil //nolint:nilerr // what cannot be seen is left to dropUnused
		}
		if name, ok := l.names[st.Ino]; ok {
			mine = append(mine, name)
		}
		return nil
	})
	return mine
}

// drop deletes a link if it is the last name of its file, and tells how many bytes
// that gave back.
func (l *links) drop(name string) uint64 {
	var st unix.Stat_t
	seen, real := l.at(name)
	// A character device is OverlayFS's way to say that there is nothing.
	if unix.Lstat(seen, &st) != nil || st.Nlink != 1 || st.Mode&unix.S_IFMT == unix.S_IFCHR || os.Remove(real) != nil {
		return 0
	}
	return uint64(st.Blocks) * 512 //nolint:gosec // a count
}

// dropUnused deletes all links that are the last names of their files.
func (l *links) dropUnused(ctx context.Context) (freed uint64, err error) {
	activity.Logf(ctx, activity.Info, "deleting unused links...")
	dir, _ := l.at("")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	for _, e := range entries {
		freed += l.drop(e.Name())
	}
	return freed, nil
}
