package compress

import (
	"bytes"
	"slices"
)

// Method is how something is compressed, spelled as Nix spells it in narinfos
// and settings. The empty Method is None.
type Method string

// The methods.
const (
	None   Method = "none"
	XZ     Method = "xz"
	Zstd   Method = "zstd"
	Gzip   Method = "gzip"
	Bzip2  Method = "bzip2"
	Brotli Method = "br"
)

// Methods are all methods, in the order in which they are listed to people.
var Methods = []Method{None, XZ, Zstd, Gzip, Bzip2, Brotli}

// Parse finds a method by the name that Nix gives it. Otherwise the error is an
// *UnknownMethodError.
func Parse(name string) (Method, error) {
	if m := Method(name); slices.Contains(Methods, m) {
		return m, nil
	}
	return "", &UnknownMethodError{Name: name}
}

// Suffix is what upstream puts at the end of the name of a file that is
// compressed so, with its dot. It is empty for None.
// Source: src/libstore/binary-cache-store.cc, which has none for gzip.
func (m Method) Suffix() string {
	switch m {
	case XZ:
		return ".xz"
	case Zstd:
		return ".zst"
	case Gzip:
		return ".gz"
	case Bzip2:
		return ".bz2"
	case Brotli:
		return ".br"
	}
	return ""
}

// DetectLen is how many bytes Detect looks at.
const DetectLen = 6

// magics are how streams begin. Brotli's have no magic. Zstandard's skippable
// frames, which may come first, are not looked for.
var magics = []struct {
	method Method
	magic  []byte
}{
	{XZ, []byte("\xfd7zXZ\x00")},
	{Zstd, []byte("\x28\xb5\x2f\xfd")},
	{Gzip, []byte("\x1f\x8b\x08")},
	{Bzip2, []byte("BZh")},
}

// Detect tells from the first bytes of something, DetectLen if there are as
// many, how it is compressed. It answers None if it does not look compressed.
func Detect(head []byte) Method {
	for _, m := range magics {
		if bytes.HasPrefix(head, m.magic) {
			return m.method
		}
	}
	return None
}
