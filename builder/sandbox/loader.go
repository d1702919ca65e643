package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A loader starts this program where neither the dynamic loader nor libraries are to
// be seen. strata is linked statically and does without; but tests, and programs built
// with cgo, are not. The loader and the directories of the libraries are handed
// in as open files.
type loader struct {
	interpreter string
	dirs        []string
}

// findLoader returns nil if this program is linked statically.
func findLoader() (*loader, error) {
	auxv, err := unix.Auxv()
	if err != nil {
		return nil, err
	}
	const base = 7 // AT_BASE of linux/auxvec.h: where the loader is mapped
	i := slices.IndexFunc(auxv, func(pair [2]uintptr) bool { return pair[0] == base })
	if i < 0 || auxv[i][1] == 0 {
		return nil, nil
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	l := parseMaps(string(maps), uint64(auxv[i][1]))
	if l.interpreter == "" {
		return nil, fmt.Errorf("the dynamic loader, mapped at %#x, is not in the list of mapped files", auxv[i][1])
	}
	return l, nil
}

// parseMaps finds the loader and where libraries are among the files that are mapped.
func parseMaps(maps string, base uint64) *loader {
	l := new(loader)
	for line := range strings.Lines(maps) {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[5][0] != '/' {
			continue
		}
		file := fields[5]
		from, _, _ := strings.Cut(fields[0], "-")
		if start, err := strconv.ParseUint(from, 16, 64); err == nil && start == base {
			l.interpreter = file
		}
		if dir := filepath.Dir(file); strings.Contains(filepath.Base(file), ".so") && !slices.Contains(l.dirs, dir) {
			l.dirs = append(l.dirs, dir)
		}
	}
	return l
}

// command is the beginning of a command line that starts this program.
func (l *loader) command() []string {
	if l == nil {
		return []string{selfPath}
	}
	paths := make([]string, len(l.dirs)+1)
	for i := range paths {
		paths[i] = "/proc/self/fd/" + strconv.Itoa(bwrapLoader+i)
	}
	return []string{paths[0], "--library-path", strings.Join(paths[1:], ":"), selfPath}
}
