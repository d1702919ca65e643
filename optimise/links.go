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
// where objects are looked at, and how many bytes the disk gets back when the object goes
// and they do. It is asked before.
func (l *Links) Of(object string) (mine []string, bytes uint64) {
	type file struct{ left, bytes uint64 } // names outside of the object
	files := map[uint64]file{}
	_ = filepath.WalkDir(object, func(path string, e fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err != nil || unix.Lstat(path, &st) != nil {
			return nil //nolint:nilerr // what cannot be seen stays
		}
		size := uint64(st.Blocks) * 512 //nolint:gosec // a count
		if e.IsDir() || st.Nlink < 2 {
			bytes += size
			return nil
		}
		if _, ok := files[st.Ino]; !ok {
			files[st.Ino] = file{uint64(st.Nlink), size} //nolint:unconvert // not on all machines
		}
		f := files[st.Ino]
		f.left--
		files[st.Ino] = f
		return nil
	})
	for ino, f := range files {
		name, linked := l.names[ino]
		if linked && f.left == 1 {
			mine = append(mine, name)
		}
		if f.left == 0 || linked && f.left == 1 {
			bytes += f.bytes
		}
	}
	return mine, bytes
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
