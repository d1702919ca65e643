package optimise

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Links are those of a store directory, for who deletes objects: the space of a file is
// given back when its link goes, too.
type Links struct {
	seen, real string            // directories: where they are looked at, and deleted from
	names      map[uint64]string // by inode
}

// ReadLinks reads which links there are. layer is where objects are looked at if the store
// directory is a merged one, else "".
func ReadLinks(storeDir, layer string) (*Links, error) {
	l := &Links{real: filepath.Join(storeDir, LinksName), names: make(map[uint64]string)}
	l.seen = l.real
	if layer != "" {
		l.seen = filepath.Join(layer, LinksName)
	}
	entries, err := os.ReadDir(l.seen)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if fi, err := e.Info(); err == nil {
			if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
				l.names[st.Ino] = e.Name()
			}
		}
	}
	return l, nil
}

// Of gives the links of files that have no other names than those in an object, at its path
// where objects are looked at. It is asked before the object goes.
func (l *Links) Of(object string) (mine []string) {
	if len(l.names) == 0 {
		return nil
	}
	left := map[uint64]uint64{} // names outside of the object
	_ = filepath.WalkDir(object, func(path string, e fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err != nil || e.IsDir() || unix.Lstat(path, &st) != nil || st.Nlink < 2 {
			return nil //nolint:nilerr // what cannot be seen stays
		}
		if _, ok := left[st.Ino]; !ok {
			left[st.Ino] = uint64(st.Nlink) //nolint:unconvert // not on all machines
		}
		left[st.Ino]--
		return nil
	})
	for ino, n := range left {
		if name, ok := l.names[ino]; ok && n == 1 {
			mine = append(mine, name)
		}
	}
	return mine
}

// Drop deletes those of links that are the last names of their files, and tells how many bytes
// that gave back.
func (l *Links) Drop(names []string) (freed uint64) {
	for _, name := range names {
		var st unix.Stat_t
		if unix.Lstat(filepath.Join(l.seen, name), &st) == nil && st.Nlink == 1 && os.Remove(filepath.Join(l.real, name)) == nil {
			freed += uint64(st.Blocks) * 512 //nolint:gosec // a count
			delete(l.names, st.Ino)
		}
	}
	return freed
}
