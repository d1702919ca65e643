package nar

import "encoding/binary"

// The pieces of an archive, appended to a buffer. The order is up to the
// caller: appendOpen once, then objects.

func appendOpen(b []byte) []byte {
	b = append(b, magic...)
	return append(b, runOpenType...)
}

// appendEntry begins an entry of the directory that is open, up to its type.
func appendEntry(b []byte, name string) []byte {
	b = append(b, runNewEntry...)
	b = appendString(b, name)
	return append(b, runNodeOpenType...)
}

// appendRegular is followed by size bytes, their padding and appendClose.
func appendRegular(b []byte, executable bool, size int64) []byte {
	b = append(b, tokRegular...)
	if executable {
		b = append(b, tokExecutable...)
		b = append(b, tokEmpty...)
	}
	b = append(b, tokContents...)
	return binary.LittleEndian.AppendUint64(b, uint64(size))
}

func appendSymlink(b []byte, target string) []byte {
	b = append(b, tokSymlink...)
	b = append(b, tokTarget...)
	return appendString(b, target)
}

func appendPadding(b []byte, size int64) []byte {
	return append(b, zeros[:padding(uint64(size))]...)
}

// appendClose ends an object at the given depth, and the directory entry that
// holds it, if any.
func appendClose(b []byte, depth int) []byte {
	b = append(b, tokClose...)
	if depth > 0 {
		b = append(b, tokClose...)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(len(s)))
	b = append(b, s...)
	return appendPadding(b, int64(len(s)))
}

// headerMax is more than any of these append, contents excluded.
const headerMax = MaxTarget + MaxName + 512
