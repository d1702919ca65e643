package erofs

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// directory is one that is being filled.
type directory struct {
	name    string
	perm    uint32
	entries []entry
	dirs    uint32
	ups     []int64 // where the directories in it have the place of this one
}

type entry struct {
	name string
	at   int64 // of the inode
	kind byte
}

func (d *directory) add(name string, at int64, kind byte) {
	d.entries = append(d.entries, entry{name, at, kind})
}

// encode gives the contents: blocks of entries in the order of their names, "." and
// ".." among them. It tells where in them the places of the directory itself and of
// the one above belong, which are 0.
func (d *directory) encode() (contents []byte, self, up int, err error) {
	all := append(d.entries, entry{name: ".", kind: entryDir}, entry{name: "..", kind: entryDir})
	slices.SortFunc(all, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	for i := range all[1:] {
		if all[i].name == all[i+1].name {
			return nil, 0, 0, fmt.Errorf("'%s' in '%s' %w: it is there twice", all[i].name, d.name, ErrName)
		}
	}
	for len(all) > 0 {
		n, size := 0, 0
		for n < len(all) && size+entrySize+len(all[n].name) <= blockSize {
			size += entrySize + len(all[n].name)
			n++
		}
		// Each block but the last is filled up.
		contents = append(contents, zeros[:-len(contents)&(blockSize-1)]...)
		names := n * entrySize
		for _, e := range all[:n] {
			switch e.name {
			case ".":
				self = len(contents)
			case "..":
				up = len(contents)
			}
			contents = append(contents, slot(e.at)...)
			contents = binary.LittleEndian.AppendUint16(contents, uint16(names)) //nolint:gosec // within a block
			contents = append(contents, e.kind, 0)
			names += len(e.name)
		}
		for _, e := range all[:n] {
			contents = append(contents, e.name...)
		}
		all = all[n:]
	}
	return contents, self, up, nil
}

func (d *directory) inode() inode {
	return inode{mode: unix.S_IFDIR | d.perm, links: 2 + d.dirs}
}

// putDirectory writes a directory. It gives its place, and where in it that of the one
// above belongs.
func (w *Writer) putDirectory(d *directory) (at, up int64, err error) {
	contents, selfIn, upIn, err := d.encode()
	if err != nil {
		return 0, 0, err
	}
	n := d.inode()
	n.size = int64(len(contents))
	if at, err = w.put(&n, contents); err != nil {
		return 0, 0, err
	}
	within := func(i int) int64 {
		if whole := len(contents) &^ (blockSize - 1); n.inline && i >= whole {
			return at + int64(n.encodedSize()+i-whole)
		}
		return int64(n.block)<<blockBits + int64(i)
	}
	return at, within(upIn), w.space.patch(within(selfIn), slot(at))
}

// putRoot writes the root, whose inode is in block 0.
func (w *Writer) putRoot() error {
	d := w.open[0]
	contents, self, up, err := d.encode()
	if err != nil {
		return err
	}
	copy(contents[self:], slot(rootOffset))
	copy(contents[up:], slot(rootOffset))
	n := d.inode()
	n.size = int64(len(contents))
	w.inodes++
	n.number = uint32(w.inodes) //nolint:gosec // as far as it goes
	whole := len(contents)
	if n.encodedSize()+whole <= len(w.root) {
		n.inline, whole = true, 0
	} else {
		if n.block, err = block(w.space.end); err != nil {
			return err
		}
		if err := w.space.append(contents); err != nil {
			return err
		}
		if err := w.space.fill(); err != nil {
			return err
		}
	}
	n.encode(w.root[:], w.opts.Time)
	copy(w.root[n.encodedSize():], contents[whole:])
	return nil
}
