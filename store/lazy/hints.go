package lazy

import (
	"context"
	"path"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/strata-nix/strata/fileindex"
	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// opened is a file of which the beginning was read.
type opened struct {
	ob   *object
	node uint32
}

// Bounds of what one program leads to.
const (
	maxHintDepth = 8
	maxFollowed  = 256     // files, from one program
	maxHinted    = 1 << 16 // files that are remembered not to be looked at twice
	maxLinks     = 16      // symlinks on the way to a file
	// wholeProgram is up to which size a program or library comes as a whole: of such a one nearly all is read, as the
	// kernel reads around each page.
	wholeProgram = 2 << 20
)

// opens takes note of the beginning of a file that is read: when it is a program, all of what it needs to start is
// fetched, and not one after the other.
func (o *Objects) opens(ob *object, node uint32, head []byte) {
	if len(head) < 2 || string(head[:2]) != "#!" && string(head[:2]) != "\x7fE" {
		return
	}
	if o.s.o.Offline || o.streams(ob) || !o.hinted.first(ob, node) {
		return
	}
	select {
	case o.opened <- opened{ob, node}:
	default: // it would only be sooner
	}
}

// streams tells whether readers are given what comes of an object while it comes: they must not wait for a whole that
// was asked for ahead.
func (o *Objects) streams(ob *object) bool {
	return o.s.o.Verify == VerifyStream && ob.part.Load() == nil
}

// hinted remembers which files were looked at.
type hinted struct {
	mu    sync.Mutex
	nodes map[uint64]bool
}

func (h *hinted) first(ob *object, node uint32) bool {
	id := fusefs.NodeID(ob.number, node)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.nodes[id] {
		return false
	}
	if h.nodes == nil || len(h.nodes) >= maxHinted {
		h.nodes = map[uint64]bool{}
	}
	h.nodes[id] = true
	return true
}

// follow fetches what a program needs to start, and what its libraries need.
func (o *Objects) follow(ctx context.Context, f opened, depth int, left *atomic.Int32) {
	size := f.ob.tree.Node(f.node).Size
	head := make([]byte, min(size, fileindex.ChunkSize))
	if depth > 0 && size <= wholeProgram {
		f.ob.bring(ctx, f.node, elfSegment{length: size})
	}
	if ctx.Err() != nil || depth > maxHintDepth || !f.ob.peek(ctx, f.node, head, 0) {
		return
	}
	var next []opened
	if line, ok := strings.CutPrefix(string(head[:min(len(head), 256)]), "#!"); ok {
		line, _, _ = strings.Cut(line, "\n")
		if words := strings.Fields(line); len(words) > 0 {
			next = append(next, o.locate(ctx, f.ob, words[0], nil))
		}
	}
	if e := parseElf(head, size); e != nil {
		if e.interp != "" {
			next = append(next, o.locate(ctx, f.ob, e.interp, nil))
		}
		if size <= wholeProgram {
			f.ob.bring(ctx, f.node, elfSegment{length: size})
		} else {
			f.ob.bring(ctx, f.node, e.eager()...)
		}
		libraries, dirs := e.needed(func(b []byte, off int64) bool { return f.ob.peek(ctx, f.node, b, off) })
		for _, l := range libraries {
			next = append(next, o.locate(ctx, f.ob, l, dirs))
		}
	}
	var all sync.WaitGroup
	for _, n := range next {
		if n.ob != nil && left.Add(-1) >= 0 && o.hinted.first(n.ob, n.node) {
			all.Go(func() { o.follow(ctx, n, depth+1, left) })
		}
	}
	all.Wait()
}

// libraryDirs are where libraries are in objects that do not say.
var libraryDirs = []string{"lib", "lib64", "usr/lib", "usr/lib64", "usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "lib/x86_64-linux-gnu"}

// locate finds the file that an object means by a path or by the name of a library: in what it refers to, and in
// itself.
func (o *Objects) locate(ctx context.Context, ob *object, name string, dirs []string) opened {
	if p, rest, ok := o.inStore(name); ok {
		return o.find(ctx, ob, p, rest)
	}
	base := path.Base(name)
	for _, list := range dirs {
		for dir := range strings.SplitSeq(list, ":") {
			if p, rest, ok := o.inStore(dir); ok {
				if f := o.find(ctx, ob, p, path.Join(rest, base)); f.ob != nil {
					return f
				}
			}
		}
	}
	for _, p := range append([]storepath.Path{ob.info.Path}, ob.info.References...) {
		other := o.byPath(ctx, ob, p)
		if other == nil {
			continue
		}
		if path.IsAbs(name) {
			if f := o.walk(ctx, other, name[1:], maxLinks); f.ob != nil {
				return f
			}
		}
		for _, dir := range libraryDirs {
			if f := o.walk(ctx, other, dir+"/"+base, maxLinks); f.ob != nil {
				return f
			}
		}
	}
	return opened{}
}

// inStore divides a path that is in the store directory.
func (o *Objects) inStore(name string) (p storepath.Path, rest string, ok bool) {
	in, ok := strings.CutPrefix(name, string(o.s.o.Dir)+"/")
	if !ok {
		return p, "", false
	}
	base, rest, _ := strings.Cut(in, "/")
	p, err := storepath.ParseBase(base)
	return p, rest, err == nil
}

// find finds a file of an object that another one refers to.
func (o *Objects) find(ctx context.Context, from *object, p storepath.Path, rest string) opened {
	if ob := o.byPath(ctx, from, p); ob != nil {
		return o.walk(ctx, ob, rest, maxLinks)
	}
	return opened{}
}

// byPath gives an object that another one refers to, or itself; nil if its tree can be had only with all of it.
func (o *Objects) byPath(ctx context.Context, from *object, p storepath.Path) *object {
	if p == from.info.Path {
		return from
	}
	for _, r := range from.info.References {
		if r == p {
			ob, _ := o.known(ctx, p)
			return ob
		}
	}
	return nil
}

// known gives an object whose tree can be had without its contents.
func (o *Objects) known(ctx context.Context, p storepath.Path) (*object, *store.PathInfo) {
	infos, err := o.s.PathInfos(ctx, []storepath.Path{p})
	if err != nil || infos[0] == nil {
		return nil, nil
	}
	return o.meetAhead(ctx, infos[0]), infos[0]
}

// walk finds a file by its path in an object, through symlinks as long as they stay there.
func (o *Objects) walk(ctx context.Context, ob *object, name string, links int) opened {
	t := ob.tree
	node := uint32(0)
	names := strings.Split(path.Clean("/" + name)[1:], "/")
	for i, n := range names {
		if n == "" {
			continue
		}
		var ok bool
		if node, ok = t.Find(node, n); !ok {
			return opened{}
		}
		if t.Kind(node) != fusefs.Symlink {
			continue
		}
		to := t.Node(node).Target
		rest := strings.Join(names[i+1:], "/")
		if links == 0 {
			return opened{}
		}
		if p, in, ok := o.inStore(to); ok {
			if other := o.byPath(ctx, ob, p); other != nil {
				return o.walk(ctx, other, in+"/"+rest, links-1)
			}
			return opened{}
		}
		if path.IsAbs(to) {
			return opened{}
		}
		return o.walk(ctx, ob, path.Join("/", path.Join(names[:i]...), to, rest), links-1)
	}
	if k := t.Kind(node); k != fusefs.Regular && k != fusefs.Executable {
		return opened{}
	}
	return opened{ob, node}
}

// peek reads from a file without counting as a reader, and fetches what it reads ahead of those.
func (ob *object) peek(ctx context.Context, node uint32, b []byte, off int64) bool {
	if len(b) == 0 || off < 0 || off > ob.tree.Node(node).Size-int64(len(b)) {
		return false
	}
	if n, err := ob.readHere(ctx, node, b, off); err == nil && n == len(b) {
		return ob.verified.Load()
	}
	if pt := ob.part.Load(); pt != nil {
		return pt.bring(ctx, node, off, int64(len(b)), true) && pt.copy(node, b, off)
	}
	if ob.o.streams(ob) || ob.o.gate.enter(ctx) != nil {
		return false
	}
	defer ob.o.gate.leave()
	if ob.o.fetch.fetchEarly(ctx, ob.info) != nil || ob.verify(ctx) != nil {
		return false
	}
	n, err := ob.readHere(ctx, node, b, off)
	return err == nil && n == len(b)
}

// bring fetches parts of a file ahead, and does not wait for them.
func (ob *object) bring(ctx context.Context, node uint32, parts ...elfSegment) {
	if pt := ob.part.Load(); pt != nil {
		for _, p := range parts {
			pt.bring(ctx, node, p.off, p.length, false)
		}
	}
}
