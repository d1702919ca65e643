package nar

import (
	"encoding/binary"
	"strings"
)

// Limits of the format, the same as upstream's.
const (
	// MaxDepth is how many objects can lie on the way from the root of an
	// archive to its deepest object, both counted.
	MaxDepth = 64
	// MaxName is the longest name of a directory entry, in bytes.
	MaxName = 255
	// MaxTarget is the longest symlink target, in bytes.
	MaxTarget = 4095
)

// Type is the kind of a file system object.
type Type uint8

const (
	TypeRegular Type = iota + 1
	TypeDirectory
	TypeSymlink
)

// String gives the type's name as archives and listings spell it.
func (t Type) String() string {
	switch t {
	case TypeRegular:
		return "regular"
	case TypeDirectory:
		return "directory"
	case TypeSymlink:
		return "symlink"
	}
	return "unknown"
}

// An Entry is one object of an archive. Entries come in depth-first order, a
// directory before what is in it.
type Entry struct {
	// Path is relative to the archive's root, names joined with slashes. It is
	// empty for the root itself.
	Path string
	Type Type

	// Executable and Size, in bytes, belong to regular files.
	Executable bool
	Size       int64
	// Offset is where a regular file's contents begin, counted in bytes from
	// the start of the archive. A Writer ignores it.
	Offset int64

	// Target belongs to symlinks.
	Target string
}

// Name is the last component of the entry's path, empty for the root.
func (e *Entry) Name() string {
	return e.Path[strings.LastIndexByte(e.Path, '/')+1:]
}

// Runs of tokens that always appear together, already in their wire form: a
// little-endian 64-bit length, the bytes, zeros up to a multiple of eight.
var (
	magic         = token("nix-archive-1")
	tokOpen       = token("(")
	tokClose      = token(")")
	tokType       = token("type")
	tokEntry      = token("entry")
	tokRegular    = token("regular")
	tokDirectory  = token("directory")
	tokSymlink    = token("symlink")
	tokTarget     = token("target")
	tokContents   = token("contents")
	tokExecutable = token("executable")
	tokEmpty      = token("")

	runOpenType     = tokOpen + tokType
	runOpenName     = tokOpen + token("name")
	runNodeOpenType = token("node") + runOpenType
	runNewEntry     = tokEntry + runOpenName
)

func token(s string) string {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(s)))
	b = append(b, s...)
	return string(append(b, zeros[:padding(uint64(len(s)))]...))
}

var zeros [8]byte

// padding is the number of zeros that follow n bytes.
func padding(n uint64) int { return int(-n & 7) }

// checkName says what is wrong with a directory entry's name, or nothing.
func checkName[S string | []byte](name S) string {
	switch {
	case len(name) == 0:
		return "empty file name"
	case len(name) > MaxName:
		return "file name is longer than 255 bytes"
	case string(name) == "." || string(name) == "..":
		return "file name is '" + string(name) + "'"
	}
	for i := range len(name) {
		switch name[i] {
		case '/':
			return "file name contains a slash"
		case 0:
			return "file name contains a NUL byte"
		}
	}
	return ""
}

// checkTarget says what is wrong with a symlink's target, or nothing.
func checkTarget[S string | []byte](target S) string {
	if len(target) == 0 {
		return "empty symlink target"
	}
	if len(target) > MaxTarget {
		return "symlink target is longer than 4095 bytes"
	}
	for i := range len(target) {
		if target[i] == 0 {
			return "symlink target contains a NUL byte"
		}
	}
	return ""
}
