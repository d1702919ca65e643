package erofs

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"math"
	"slices"

	"golang.org/x/sys/unix"
)

// fileID is the same for files that are equal: the first 160 bits of a hash, as many as
// a store path has, so that a million of them take less memory.
type fileID [20]byte

// linked is the inode of a file that has names, or may get more.
type linked struct {
	at       int64
	links    uint16
	extended bool
}

// File makes a regular file of the next size bytes of contents, at whose end the reader must
// be then.
func (w *Writer) File(name string, perm uint32, size int64, contents io.Reader) error {
	if w.err == nil {
		w.err = checkName(name)
	}
	if w.err != nil {
		return w.err
	}
	at, err := w.file(perm&0o7777, size, contents)
	if err == nil {
		w.here().add(name, at, entryFile)
	} else {
		err = fmt.Errorf("file '%s': %w", name, err)
	}
	w.err = err
	return err
}

func (w *Writer) file(perm uint32, size int64, contents io.Reader) (int64, error) {
	if size < 0 {
		return 0, ErrSize
	}
	n := inode{mode: unix.S_IFREG | perm, links: 1, size: size}
	tail := int(size & (blockSize - 1))
	n.inline = tail > 0 && n.encodedSize()+tail <= blockSize
	before := w.space.end
	if size >= blockSize || !n.inline && size > 0 {
		var err error
		if n.block, err = block(before + size); err == nil {
			n.block, err = block(before)
		}
		if err != nil {
			return 0, err
		}
	}
	var h hash.Hash
	if w.equal != nil {
		h = sha256.New()
		var head [12]byte
		binary.LittleEndian.PutUint32(head[:], perm)
		binary.LittleEndian.PutUint64(head[4:], uint64(size)) //nolint:gosec // not negative
		h.Write(head[:])
	}
	if err := w.contents(contents, size-int64(tail), h); err != nil {
		return 0, err
	}
	inline, err := w.last(contents, tail, n.inline, h)
	if err != nil {
		return 0, err
	}
	if h == nil {
		return w.putInode(&n, inline)
	}
	id := fileID(h.Sum(nil)[:len(fileID{})])
	if l, ok := w.equal[id]; ok && l.links < math.MaxUint16 {
		w.space.rewind(before)
		l.links++
		w.equal[id] = l
		return l.at, nil
	} else if ok {
		// It has as many names as there can be.
		if err := w.patchLinks(l); err != nil {
			return 0, err
		}
	}
	at, err := w.putInode(&n, inline)
	w.equal[id] = linked{at, 1, n.extended()}
	return at, err
}

// contents appends whole blocks.
func (w *Writer) contents(r io.Reader, size int64, h hash.Hash) error {
	for size > 0 {
		room := w.space.room()
		room = room[:min(size, int64(len(room)))]
		if _, err := io.ReadFull(r, room); err != nil {
			return sizeError(err)
		}
		if h != nil {
			h.Write(room)
		}
		if err := w.space.grew(len(room)); err != nil {
			return err
		}
		size -= int64(len(room))
	}
	return nil
}

// last reads what is left of a file, less than a block, and appends it unless it is
// to lie beside the inode. Then it is what the function gives.
func (w *Writer) last(r io.Reader, n int, inline bool, h hash.Hash) ([]byte, error) {
	tail := w.tail[:n]
	if _, err := io.ReadFull(r, tail); n > 0 && err != nil {
		return nil, sizeError(err)
	}
	var more [1]byte
	if k, err := io.ReadFull(r, more[:]); k > 0 {
		return nil, ErrSize
	} else if !errors.Is(err, io.EOF) {
		return nil, err
	}
	if h != nil {
		h.Write(tail)
	}
	if inline || n == 0 {
		return tail, nil
	}
	if err := w.space.append(tail); err != nil {
		return nil, err
	}
	return nil, w.space.fill()
}

func sizeError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrSize
	}
	return err
}

// patchAllLinks writes down how many names files have that have several.
func (w *Writer) patchAllLinks() error {
	several := slices.Collect(maps.Values(w.equal))
	several = slices.DeleteFunc(several, func(l linked) bool { return l.links < 2 })
	slices.SortFunc(several, func(a, b linked) int { return cmp.Compare(a.at, b.at) })
	for _, l := range several {
		if err := w.patchLinks(l); err != nil {
			return err
		}
	}
	return nil
}

func (w *Writer) patchLinks(l linked) error {
	return w.space.patch(l.at+linksAt(l.extended), binary.LittleEndian.AppendUint16(nil, l.links))
}
