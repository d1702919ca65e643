package objstore

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxName bounds the bytes of a name: what S3 takes.
const maxName = 1024

// CheckName refuses names that do not stay in a storage, or that not every
// storage can hold: names are parts with slashes between them, none of them
// empty, "." or "..", in UTF-8 without control characters and backslashes.
func CheckName(name string) error {
	fault := func(why string) error { return fmt.Errorf("%w: '%.200q' %s", ErrName, name, why) }
	if name == "" {
		return fault("is empty")
	}
	if len(name) > maxName {
		return fault(fmt.Sprintf("has more than %d bytes", maxName))
	}
	if !utf8.ValidString(name) {
		return fault("is not UTF-8")
	}
	for i := range len(name) {
		if name[i] < ' ' || name[i] == 0x7f || name[i] == '\\' {
			return fault("has a character that cannot be")
		}
	}
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "":
			return fault("is absolute, or has an empty part")
		case ".", "..":
			return fault("does not stay where it belongs")
		}
	}
	return nil
}

// checkDir is CheckName for the argument of List.
func checkDir(dir string) error {
	if dir == "" {
		return nil
	}
	return CheckName(dir)
}
