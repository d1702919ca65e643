package sandbox

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A loader starts this program where neither the dynamic loader nor libraries are to
// be seen. strata is linked statically and does without; but tests, and programs built
// with cgo, are not. The loader and the directories of the libraries are handed
// in as open files.
type loader struct {
	interpreter string
	dirs        []string
}

// Of linux/auxvec.h: where the loader is mapped.
const atBase = 7

// findLoader returns nil if this program is linked statically.
func findLoader() (*loader, error) {
	auxv, err := os.ReadFile("/proc/self/auxv")
	if err != nil {
		return nil, err
	}
	base := auxValue(auxv, atBase)
	if base == 0 {
		return nil, nil
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	l := parseMaps(string(maps), base)
	if l.interpreter == "" {
		return nil, fmt.Errorf("the dynamic loader, mapped at %#x, is not in the list of mapped files", base)
	}
	return l, nil
}

// auxValue finds a value in a vector of pairs of words.
func auxValue(auxv []byte, key uint64) uint64 {
	const word = strconv.IntSize / 8
	read := func(i int) uint64 {
		if word == 4 {
			return uint64(binary.NativeEndian.Uint32(auxv[i:]))
		}
		return binary.NativeEndian.Uint64(auxv[i:])
	}
	for i := 0; i+2*word <= len(auxv); i += 2 * word {
		if read(i) == key {
			return read(i + word)
		}
	}
	return 0
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
	return loaderCommand(len(l.dirs) + 1)
}

// loaderCommand uses files that have been opened, as many as given.
func loaderCommand(files int) []string {
	paths := make([]string, files)
	for i := range paths {
		paths[i] = "/proc/self/fd/" + strconv.Itoa(bwrapLoader+i)
	}
	return []string{paths[0], "--library-path", strings.Join(paths[1:], ":"), selfPath}
}
