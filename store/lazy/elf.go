package lazy

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
)

// elfFile is what the beginning of a program or library says of what is read when it starts. Only the kind that
// nearly all machines have today is looked at: 64 bits, little-endian. Nothing is believed: it only says what
// is fetched sooner.
//
// Source of the format: elf(5), Linux man-pages.
type elfFile struct {
	size    int64
	shared  bool // it is relocated when it starts
	loads   []elfSegment
	interp  string
	dynamic elfSegment
}

type elfSegment struct {
	flags             uint32
	off, addr, length int64
}

// Numbers of the format.
const (
	elfHeader, elfProgramHeader, elfDynamicEntry = 64, 56, 16

	elfShared                      = 3
	elfLoad, elfDynamic, elfInterp = 1, 2, 3
	elfExecute, elfWrite           = 1, 2

	elfNeeded, elfStrings, elfRPath, elfRunPath = 1, 5, 15, 29
)

// Limits of what is looked at.
const (
	maxElfSegments = 64
	maxElfDynamic  = 64 << 10
	maxElfNeeded   = 256
	// maxElfEager is how much of a segment is taken to be read at the start.
	maxElfEager = 1 << 20
)

// parseElf reads the beginning of a file with size bytes; nil if it is nothing of that kind.
func parseElf(head []byte, size int64) *elfFile {
	if len(head) < elfHeader || !bytes.HasPrefix(head, []byte("\x7fELF\x02\x01")) {
		return nil
	}
	le := binary.LittleEndian
	f := &elfFile{size: size, shared: le.Uint16(head[16:]) == elfShared}
	at, count := le.Uint64(head[32:]), int(le.Uint16(head[56:]))
	if le.Uint16(head[54:]) != elfProgramHeader || count > maxElfSegments || at > uint64(len(head)) || uint64(count*elfProgramHeader) > uint64(len(head))-at {
		return nil
	}
	for i := range count {
		p := head[at+uint64(i*elfProgramHeader):]
		off, addr, length := le.Uint64(p[8:]), le.Uint64(p[16:]), le.Uint64(p[32:])
		if off > uint64(size) || length > uint64(size)-off || addr > math.MaxInt64-length {
			continue
		}
		s := elfSegment{le.Uint32(p[4:]), int64(off), int64(addr), int64(length)}
		switch le.Uint32(p) {
		case elfLoad:
			f.loads = append(f.loads, s)
		case elfDynamic:
			f.dynamic = s
		case elfInterp:
			if off+length <= uint64(len(head)) {
				f.interp = cString(head[off : off+length])
			}
		}
	}
	return f
}

// cString is what comes before the first zero.
func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// eager are the parts that are read whenever it starts: symbols and relocations at the beginning, and what is
// relocated.
func (f *elfFile) eager() (parts []elfSegment) {
	for _, s := range f.loads {
		first := s.off == 0 && s.flags&elfExecute == 0
		data := s.flags&elfWrite != 0 && f.shared
		if first || data {
			s.length = min(s.length, maxElfEager)
			parts = append(parts, s)
		}
	}
	if f.dynamic.length > 0 {
		parts = append(parts, f.dynamic)
	}
	return parts
}

// reads reads so many bytes at an offset, and tells whether that was possible.
type reads func(b []byte, off int64) bool

// needed are the libraries that it names, and the directories in which they are looked for first.
func (f *elfFile) needed(read reads) (libraries, dirs []string) {
	if f.dynamic.length == 0 {
		return nil, nil
	}
	table := make([]byte, min(f.dynamic.length, maxElfDynamic)/elfDynamicEntry*elfDynamicEntry)
	if !read(table, f.dynamic.off) {
		return nil, nil
	}
	var names, paths []int64
	strings := int64(-1)
	for e := range slices.Chunk(table, elfDynamicEntry) {
		tag, value := binary.LittleEndian.Uint64(e), int64(binary.LittleEndian.Uint64(e[8:])&math.MaxInt64)
		switch tag {
		case elfNeeded:
			if len(names) < maxElfNeeded {
				names = append(names, value)
			}
		case elfStrings:
			strings = f.offset(value)
		case elfRPath, elfRunPath:
			paths = append(paths[:0], value)
		}
		if tag == 0 {
			break
		}
	}
	if strings < 0 {
		return nil, nil
	}
	text := func(at int64) string {
		if at > f.size-strings {
			return ""
		}
		b := make([]byte, min(256, f.size-strings-at))
		if len(b) == 0 || !read(b, strings+at) {
			return ""
		}
		return cString(b)
	}
	for _, at := range names {
		if s := text(at); s != "" {
			libraries = append(libraries, s)
		}
	}
	for _, at := range paths {
		b := make([]byte, min(8192, max(0, f.size-strings-at)))
		if len(b) > 0 && read(b, strings+at) {
			dirs = append(dirs, cString(b))
		}
	}
	return libraries, dirs
}

// offset is where an address is in the file, -1 if it is not there.
func (f *elfFile) offset(addr int64) int64 {
	for _, s := range f.loads {
		if addr >= s.addr && addr-s.addr < s.length {
			return s.off + addr - s.addr
		}
	}
	return -1
}
