package stack

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/mount"
	"github.com/strata-nix/strata/overlayfs"
)

// identify tells files apart that have the same path one after the other. Of an
// image it also tells whether it was written to.
func identify(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	id := fmt.Sprintf("%d:%d", st.Dev, st.Ino)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		id += fmt.Sprintf(":%d:%d", st.Size, st.Mtim.Nano())
	}
	return id, nil
}

func identifyAll(paths []string) (string, error) {
	ids := make([]string, len(paths))
	for i, p := range paths {
		id, err := identify(p)
		if err != nil {
			return "", err
		}
		ids[i] = id
	}
	return strings.Join(ids, " "), nil
}

// usersOf lists some processes that use a mount which is in no namespace any
// more.
func usersOf(r overlayfs.Record) []string {
	if boot, err := mount.BootID(); err != nil || boot != r.Boot || r.UniqueID == 0 {
		return nil // before Linux 6.8 nobody can tell
	}
	return someProcesses(func(proc string) bool { return usesMount(proc, r.UniqueID) })
}

func usesMount(proc string, unique uint64) bool {
	links := []string{filepath.Join(proc, "cwd"), filepath.Join(proc, "root"), filepath.Join(proc, "exe")}
	for _, dir := range []string{"fd", "map_files"} {
		more, _ := filepath.Glob(filepath.Join(proc, dir, "*"))
		links = append(links, more...)
	}
	for _, link := range links {
		if id, err := mount.Identify(link); err == nil && id.Unique == unique {
			return true
		}
	}
	return false
}
