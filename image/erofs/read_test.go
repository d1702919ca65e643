package erofs

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// An image is read by what follows, which shares nothing with what writes one but
// the description of the format. It checks what the kernel relies on.

type image struct {
	r      io.ReaderAt
	blocks int64
	root   uint64
	time   uint64
}

type node struct {
	nid   uint64
	mode  uint32
	links uint32
	mtime uint64
	data  string
	names map[string]*node
}

func at(r io.ReaderAt, off int64, n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := r.ReadAt(b, off)
	return b, err
}

func openImage(r io.ReaderAt) (*image, error) {
	b, err := at(r, 1024, 3072)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	sum := le.Uint32(b[4:])
	clear(b[4:8])
	if magic := le.Uint32(b); magic != 0xE0F5E1E2 || b[12] != 12 || le.Uint32(b[80:]) != 0 {
		return nil, fmt.Errorf("magic %x, block bits %d, incompatible features %x", magic, b[12], le.Uint32(b[80:]))
	}
	if want := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) ^ 0xffffffff; sum != want {
		return nil, fmt.Errorf("checksum %x, want %x", sum, want)
	}
	return &image{r, int64(le.Uint32(b[36:])), uint64(le.Uint16(b[14:])), le.Uint64(b[24:])}, nil
}

// read reads everything below the root. seen finds hard links.
func (m *image) read() (*node, error) {
	return m.node(m.root, m.root, map[uint64]*node{})
}

func (m *image) node(nid, parent uint64, seen map[uint64]*node) (*node, error) {
	if n := seen[nid]; n != nil {
		return n, nil
	}
	le := binary.LittleEndian
	off := int64(nid) * 32
	b, err := at(m.r, off, 32)
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", nid, err)
	}
	format := le.Uint16(b)
	n := &node{nid: nid, mode: uint32(le.Uint16(b[4:])), links: uint32(le.Uint16(b[6:])), mtime: m.time}
	size, head := int64(le.Uint32(b[8:])), int64(32)
	if format&1 != 0 {
		if b, err = at(m.r, off, 64); err != nil {
			return nil, err
		}
		size, head = int64(le.Uint64(b[8:])), 64
		n.links, n.mtime = le.Uint32(b[44:]), le.Uint64(b[32:])
	}
	if le.Uint16(b[2:]) != 0 {
		return nil, fmt.Errorf("inode %d has attributes", nid)
	}
	seen[nid] = n
	whole := size
	switch format >> 1 {
	case 0:
	case 2:
		whole = size &^ 4095
		if in := off&4095 + head + size - whole; in > 4096 || size == whole {
			return nil, fmt.Errorf("inode %d: what is beside it ends at %d", nid, in)
		}
	default:
		return nil, fmt.Errorf("inode %d has layout %d", nid, format>>1)
	}
	from := int64(le.Uint32(b[16:])) * 4096
	if whole > 0 && (from < 4096 || from+whole > m.blocks*4096) {
		return nil, fmt.Errorf("inode %d: contents at %d", nid, from)
	}
	data, err := at(m.r, from, int(whole))
	if err != nil {
		return nil, err
	}
	if whole < size {
		more, err := at(m.r, off+head, int(size-whole))
		if err != nil {
			return nil, err
		}
		data = append(data, more...)
	} else if rest := -size & 4095; rest > 0 {
		pad, err := at(m.r, from+size, int(rest))
		if err != nil || strings.Trim(string(pad), "\x00") != "" {
			return nil, fmt.Errorf("inode %d: its last block is not filled with zeros: %w", nid, err)
		}
	}
	n.data = string(data)
	if n.mode&unix.S_IFMT == unix.S_IFDIR {
		err = m.entries(n, parent, seen)
	}
	return n, err
}

func (m *image) entries(n *node, parent uint64, seen map[uint64]*node) error {
	n.names = map[string]*node{}
	le := binary.LittleEndian
	last, dirs := "", uint32(2)
	for data := n.data; len(data) > 0; data = data[min(len(data), 4096):] {
		block := []byte(data[:min(len(data), 4096)])
		count := int(le.Uint16(block[8:])) / 12
		for i := range count {
			e := block[i*12:]
			from, to := int(le.Uint16(e[8:])), len(block)
			if i+1 < count {
				to = int(le.Uint16(e[20:]))
			}
			name := strings.TrimRight(string(block[from:to]), "\x00")
			if name <= last {
				return fmt.Errorf("'%s' comes after '%s'", name, last)
			}
			last = name
			nid := le.Uint64(e)
			switch name {
			case ".":
				if nid != n.nid {
					return fmt.Errorf("directory %d calls itself %d", n.nid, nid)
				}
				continue
			case "..":
				if nid != parent {
					return fmt.Errorf("directory %d is below %d and says %d", n.nid, parent, nid)
				}
				continue
			}
			child, err := m.node(nid, n.nid, seen)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			kind := map[uint32]byte{unix.S_IFREG: 1, unix.S_IFDIR: 2, unix.S_IFLNK: 7}[child.mode&unix.S_IFMT]
			if e[10] != kind {
				return fmt.Errorf("%s is listed as %d and is %o", name, e[10], child.mode)
			}
			if kind == 2 {
				dirs++
			}
			n.names[name] = child
		}
	}
	if n.links != dirs {
		return fmt.Errorf("directory %d has %d links, want %d", n.nid, n.links, dirs)
	}
	n.data = ""
	return nil
}
