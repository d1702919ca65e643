package gc

import (
	"bytes"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/mount"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

// places are the directories at which processes see the objects of a store. They are
// learnt first, by any number of goroutines, and asked for later.
type places struct {
	on []onDisk

	mu     sync.Mutex
	groups map[string]bool // of processes that see the same, and were asked
	all    map[string]bool
	list   []string // the same
}

// onDisk is where a directory really lies: on which file system, and where on that.
type onDisk struct {
	dev  mount.Device
	path string
}

// newPlaces begins with the directories that we know.
func newPlaces(procDir string, dirs []string) *places {
	p := &places{groups: map[string]bool{}, all: map[string]bool{}}
	table, _ := readMounts(filepath.Join(procDir, "self", "mountinfo")) // without it no other place is found
	for _, d := range dirs {
		d = filepath.Clean(d)
		p.add(d)
		if real, err := filepath.EvalSymlinks(d); err == nil {
			p.add(real)
			if on, ok := locate(table, real); ok && !slices.Contains(p.on, on) {
				p.on = append(p.on, on)
			}
		}
	}
	return p
}

func (p *places) add(dir string) {
	if !p.all[dir] {
		p.all[dir] = true
		p.list = append(p.list, dir)
	}
}

func readMounts(file string) (list []mount.Entry, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	for e, err := range mount.Entries(f) {
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

// locate finds out where on which file system a path lies: in the mount that is the
// deepest on the way to it, and of those the last.
func locate(table []mount.Entry, path string) (onDisk, bool) {
	best, depth := -1, -1
	for i, e := range table {
		if _, inside := below(path, e.Target); inside && !e.Deleted && len(e.Target) >= depth {
			best, depth = i, len(e.Target)
		}
	}
	if best < 0 {
		return onDisk{}, false
	}
	rest, _ := below(path, table[best].Target)
	return onDisk{table[best].Device, filepath.Join(table[best].Root, rest)}, true
}

// below gives what is left of a path after a directory that it lies in, or is.
func below(path, dir string) (rest string, ok bool) {
	if dir == "/" {
		return path, true
	}
	rest, ok = strings.CutPrefix(path, dir)
	return rest, ok && (rest == "" || rest[0] == '/')
}

// learn reads the mount table of a process, if none of its group was read: those with
// one namespace and one root. It gives the objects that are mounted by themselves.
func (p *places) learn(file, namespace, root string) (mounted []storepath.Path, err error) {
	p.mu.Lock()
	known := p.groups[namespace+" "+root]
	p.groups[namespace+" "+root] = true
	p.mu.Unlock()
	if known || len(p.on) == 0 {
		return nil, nil
	}
	table, err := readMounts(file)
	var bad *mount.TableError
	switch {
	case gone(err), errors.Is(err, unix.EINVAL), errors.As(err, &bad):
		return nil, nil // it has ended, or is about to, or did while it was read
	case err != nil:
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range table {
		for _, on := range p.on {
			if e.Device != on.dev {
				continue
			}
			if rest, ok := below(on.path, e.Root); ok {
				seen := filepath.Join(e.Target, rest)
				p.add(seen)                      // to the process itself
				p.add(filepath.Join(root, seen)) // to the kernel, that tells us
			} else if rest, ok := below(e.Root, on.path); ok {
				if object, ok := objectIn([]byte(rest)); ok {
					mounted = append(mounted, object)
				}
			}
		}
	}
	return mounted, nil
}

// objectIn reads the beginning of "/<hash part>-<name>…".
func objectIn(text []byte) (storepath.Path, bool) {
	const dash = 1 + storepath.HashPartLen
	if len(text) <= dash || text[0] != '/' || text[dash] != '-' || !nixhash.IsNix32(string(text[1:dash])) {
		return storepath.Path{}, false
	}
	end := dash + 1
	for end < len(text) && end <= dash+1+storepath.MaxNameLen && isNameByte(text[end]) {
		end++
	}
	p, err := storepath.ParseBase(string(text[1:end]))
	return p, err == nil
}

func isNameByte(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte("+-._?=", c) >= 0
}

// objects finds everything in a text that looks like an object of a store, and where:
// the index is that of the slash.
func objects(text []byte) iter.Seq2[int, storepath.Path] {
	return func(yield func(int, storepath.Path) bool) {
		for at := 0; ; at++ {
			i := bytes.IndexByte(text[at:], '/')
			if i < 0 {
				return
			}
			at += i
			if p, ok := objectIn(text[at:]); ok && !yield(at, p) {
				return
			}
		}
	}
}

// object gives the object that a file is in, or is. That it was deleted may stand
// after its name.
func (p *places) object(file []byte) (storepath.Path, bool) {
	for i, o := range objects(file) {
		if p.all[string(file[:i])] {
			return o, true
		}
	}
	return storepath.Path{}, false
}

// mapped gives the object in a line of /proc/PID/maps, whose file name comes last.
func (p *places) mapped(line []byte) (storepath.Path, bool) {
	i := bytes.IndexByte(line, '/')
	if i < 0 {
		return storepath.Path{}, false
	}
	return p.object(line[i:])
}

// mentions gives the objects that are spoken of anywhere in a text.
func (p *places) mentions(text []byte) iter.Seq[storepath.Path] {
	return func(yield func(storepath.Path) bool) {
		for i, o := range objects(text) {
			if slices.ContainsFunc(p.list, func(d string) bool { return hasSuffix(text[:i], d) }) && !yield(o) {
				return
			}
		}
	}
}

func hasSuffix(text []byte, s string) bool {
	return len(text) >= len(s) && string(text[len(text)-len(s):]) == s
}

// lines takes a text apart.
func lines(text []byte) iter.Seq[[]byte] { return bytes.SplitSeq(text, []byte("\n")) }
