package fusefs

import (
	"errors"
	"io"
	"math"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	blockSize = 4096
	// forever is how long the kernel may believe what does not change, in seconds.
	forever = math.MaxInt32
	// storeTime is the modification time of everything in a store, in seconds since 1970.
	storeTime = 1
)

func (r *request) lookup() error {
	name := r.name()
	if r.NodeId == fuse.FUSE_ROOT_ID {
		o, err := r.s.src.Lookup(r.ctx, name)
		if err != nil {
			return err // that a name is not there may change any time
		}
		var out fuse.EntryOut
		r.s.entry(&out, o, 0)
		return reply(r, &out)
	}
	o, dir, err := r.object()
	if err != nil {
		return err
	}
	node, ok := o.Tree().Find(dir, name)
	if !ok {
		return reply(r, &fuse.EntryOut{EntryValid: forever}) // and it never will be there
	}
	var out fuse.EntryOut
	r.s.entry(&out, o, node)
	return reply(r, &out)
}

// entry describes a node to who looked it up.
func (s *server) entry(out *fuse.EntryOut, o Object, node uint32) {
	out.NodeId = NodeID(o.Number(), node)
	out.EntryValid, out.AttrValid = forever, forever
	s.attr(&out.Attr, o, node)
}

// attr has the canonical metadata of a store.
func (s *server) attr(a *fuse.Attr, o Object, node uint32) {
	t := o.Tree()
	n := t.Node(node)
	*a = fuse.Attr{
		Ino: NodeID(o.Number(), node), Size: uint64(n.Size), Blocks: (uint64(n.Size) + 511) / 512,
		Atime: storeTime, Mtime: storeTime, Ctime: storeTime,
		Nlink: 1, Blksize: blockSize,
	}
	a.Uid, a.Gid = s.o.UID, s.o.GID
	switch n.Kind {
	case Directory:
		a.Mode = unix.S_IFDIR | 0o555
		a.Nlink = 2 + t.subdirectories(node)
		a.Size, a.Blocks = blockSize, blockSize/512
	case Regular:
		a.Mode = unix.S_IFREG | 0o444
	case Executable:
		a.Mode = unix.S_IFREG | 0o555
	case Symlink:
		a.Mode, a.Blocks = unix.S_IFLNK|0o777, 0
	}
}

// subdirectories counts the directories in one.
func (t *Tree) subdirectories(dir uint32) (count uint32) {
	first, end := t.Entries(dir)
	for n := first; n < end; n++ {
		if t.Kind(n) == Directory {
			count++
		}
	}
	return count
}

func (r *request) getattr() error {
	out := fuse.AttrOut{AttrValid: forever}
	if r.NodeId == fuse.FUSE_ROOT_ID {
		out.Attr = fuse.Attr{Ino: fuse.FUSE_ROOT_ID, Mode: unix.S_IFDIR | 0o555, Nlink: 2, Size: blockSize, Blocks: blockSize / 512, Blksize: blockSize}
		out.Uid, out.Gid = r.s.o.UID, r.s.o.GID
		if at := r.s.o.RootTime; !at.IsZero() {
			out.SetTimes(&at, &at, &at)
		}
		return reply(r, &out)
	}
	o, node, err := r.object()
	if err != nil {
		return err
	}
	r.s.attr(&out.Attr, o, node)
	return reply(r, &out)
}

func (r *request) readlink() error {
	o, node, err := r.object()
	if err != nil {
		return err
	}
	if o.Tree().Kind(node) != Symlink {
		return unix.EINVAL
	}
	target, err := o.Readlink(r.ctx, node)
	if err != nil {
		return err
	}
	a := r.buffer(len(target))
	copy(a.room(), target)
	return r.send(a)
}

func (r *request) read() error {
	in := as[fuse.ReadIn](r.body)
	if in == nil || in.Offset > math.MaxInt64 || in.Size > maxPages*blockSize {
		return unix.EINVAL
	}
	o, node, err := r.object()
	if err != nil {
		return err
	}
	switch o.Tree().Kind(node) {
	case Regular, Executable:
	case Directory:
		return unix.EISDIR
	default:
		return unix.EINVAL
	}
	// Not one byte of what was in the buffer before must get out, so it is sent only
	// as far as it was filled.
	a := r.buffer(int(in.Size))
	n, err := o.ReadAt(r.ctx, node, a.room(), int64(in.Offset))
	if err != nil && !errors.Is(err, io.EOF) {
		buffers.Put(a.data)
		return err
	}
	return r.sendPart(a, n)
}

// The first two entries of a directory are itself and the one above. The offset of
// an entry is the place behind it, so that a listing goes on at the same place whatever
// happened meanwhile.
const firstEntry = 2

func (r *request) readdir(plus bool) error {
	in := as[fuse.ReadIn](r.body)
	if in == nil || in.Size > maxPages*blockSize {
		return unix.EINVAL
	}
	a := r.buffer(int(in.Size))
	list := fuse.NewDirEntryList(a.room(), in.Offset)
	add := func(e fuse.DirEntry, o Object, node uint32) bool {
		if !plus {
			return list.AddDirEntry(e)
		}
		out := list.AddDirLookupEntry(e)
		if out != nil && o != nil {
			r.s.entry(out, o, node)
		}
		return out != nil
	}
	var err error
	if r.NodeId == fuse.FUSE_ROOT_ID {
		r.listRoot(in.Offset, add)
	} else {
		err = r.listObject(in.Offset, add)
	}
	if err != nil {
		buffers.Put(a.data)
		return err
	}
	return r.sendPart(a, len(list.Bytes()))
}

type addEntry func(e fuse.DirEntry, o Object, node uint32) bool

// dots adds the first two entries, from off on.
func dots(off, self, above uint64, add addEntry) bool {
	for i, e := range []fuse.DirEntry{{Name: ".", Ino: self}, {Name: "..", Ino: above}} {
		e.Mode, e.Off = unix.S_IFDIR, uint64(i)+1
		if off <= uint64(i) && !add(e, nil, 0) {
			return false
		}
	}
	return true
}

// listRoot lists the known objects, without looking closer at any.
func (r *request) listRoot(off uint64, add addEntry) {
	if !dots(off, fuse.FUSE_ROOT_ID, fuse.FUSE_ROOT_ID, add) {
		return
	}
	for k := range r.s.src.Known(max(off, firstEntry) - firstEntry) {
		e := fuse.DirEntry{Name: k.Name, Ino: NodeID(k.Number, 0), Off: k.Number + firstEntry, Mode: mode(k.Kind)}
		if !add(e, nil, 0) {
			return
		}
	}
}

func (r *request) listObject(off uint64, add addEntry) error {
	o, dir, err := r.object()
	if err != nil {
		return err
	}
	t := o.Tree()
	if t.Kind(dir) != Directory {
		return unix.ENOTDIR
	}
	above := uint64(fuse.FUSE_ROOT_ID)
	if dir != 0 {
		above = NodeID(o.Number(), t.Parent(dir))
	}
	if !dots(off, r.NodeId, above, add) {
		return nil
	}
	first, end := t.Entries(dir)
	if skip := max(off, firstEntry) - firstEntry; skip < uint64(end-first) {
		first += uint32(skip)
	} else {
		return nil
	}
	start, _ := t.Entries(dir)
	for n := first; n < end; n++ {
		e := fuse.DirEntry{Name: t.Name(n), Ino: NodeID(o.Number(), n), Off: uint64(n-start) + 1 + firstEntry, Mode: mode(t.Kind(n))}
		if !add(e, o, n) {
			return nil
		}
	}
	return nil
}

// mode is the type of a kind of node, 0 if it is not known.
func mode(k Kind) uint32 {
	switch k {
	case Directory:
		return unix.S_IFDIR
	case Regular, Executable:
		return unix.S_IFREG
	case Symlink:
		return unix.S_IFLNK
	}
	return 0
}
