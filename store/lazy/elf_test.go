package lazy

import (
	"encoding/binary"
	"slices"
	"testing"
)

// program makes the beginning of a shared program with an interpreter, libraries and directories to look for
// them, of at least size bytes.
func program(interp, dirs string, libraries []string, size int) []byte {
	le := binary.LittleEndian
	strings := "\x00"
	put := func(s string) uint64 {
		at := len(strings)
		strings += s + "\x00"
		return uint64(at)
	}
	var dynamic []byte
	entry := func(tag, value uint64) {
		dynamic = le.AppendUint64(le.AppendUint64(dynamic, tag), value)
	}
	for _, l := range libraries {
		entry(elfNeeded, put(l))
	}
	if dirs != "" {
		entry(elfRunPath, put(dirs))
	}
	const interpAt, stringsAt = 512, 1024
	// Addresses are a page above offsets.
	entry(elfStrings, stringsAt+4096)
	entry(0, 0)
	b := make([]byte, max(size, 8192+len(dynamic)))
	dynamicAt := len(b) - len(dynamic)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], elfShared)
	le.PutUint64(b[32:], elfHeader)
	le.PutUint16(b[54:], elfProgramHeader)
	segments := [][4]uint64{ // type, flags, offset, length
		{elfInterp, 4, interpAt, uint64(len(interp) + 1)}, {elfLoad, 4, 0, 8192}, {elfLoad, 4 | elfExecute, 8192, uint64(dynamicAt - 8192)},
		{elfLoad, 4 | elfWrite, uint64(dynamicAt), uint64(len(dynamic))}, {elfDynamic, 4 | elfWrite, uint64(dynamicAt), uint64(len(dynamic))},
	}
	le.PutUint16(b[56:], uint16(len(segments)))
	for i, s := range segments {
		p := b[elfHeader+i*elfProgramHeader:]
		le.PutUint32(p, uint32(s[0]))
		le.PutUint32(p[4:], uint32(s[1]))
		le.PutUint64(p[8:], s[2])
		le.PutUint64(p[16:], s[2]+4096)
		le.PutUint64(p[32:], s[3])
	}
	copy(b[interpAt:], interp)
	copy(b[stringsAt:], strings)
	copy(b[dynamicAt:], dynamic)
	return b
}

// Program is that for tests from outside.
var Program = program

func readsOf(b []byte) reads {
	return func(p []byte, off int64) bool {
		if off < 0 || off > int64(len(b)-len(p)) {
			return false
		}
		copy(p, b[off:])
		return true
	}
}

func TestProgramsAreUnderstood(t *testing.T) {
	b := program("/lib/ld.so", "/nix/store/x:/nix/store/y", []string{"liba.so.1", "libb.so"}, 300_000)
	f := parseElf(b[:4096], int64(len(b)))
	if f == nil || f.interp != "/lib/ld.so" || !f.shared {
		t.Fatalf("%+v", f)
	}
	libraries, dirs := f.needed(readsOf(b))
	if !slices.Equal(libraries, []string{"liba.so.1", "libb.so"}) || !slices.Equal(dirs, []string{"/nix/store/x:/nix/store/y"}) {
		t.Errorf("%q, %q", libraries, dirs)
	}
	sum := int64(0)
	for _, s := range f.eager() {
		sum += s.length
	}
	if sum < 8192 || sum > 10_000 {
		t.Errorf("%d bytes are read at the start", sum)
	}
}

// Whatever a file says: nothing is read beyond it, and not without bounds.
func FuzzParseElf(f *testing.F) {
	f.Add(program("/lib/ld.so", "/nix/store/x", []string{"liba.so.1"}, 9000))
	f.Add([]byte("\x7fELF\x02\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		size := int64(len(b))
		e := parseElf(b[:min(len(b), 4096)], size)
		if e == nil {
			return
		}
		for _, s := range append(e.eager(), e.dynamic) {
			if s.off < 0 || s.length < 0 || s.off+s.length > size {
				t.Fatalf("%+v of %d bytes", s, size)
			}
		}
		in := readsOf(b)
		libraries, _ := e.needed(func(p []byte, off int64) bool {
			if off < 0 || off+int64(len(p)) > size {
				t.Fatalf("%d bytes at %d of %d", len(p), off, size)
			}
			return in(p, off)
		})
		if len(libraries) > maxElfNeeded {
			t.Fatalf("%d libraries", len(libraries))
		}
	})
}
