package nixhash

import (
	"crypto/md5"  //nolint:gosec // a format that exists, not a choice
	"crypto/sha1" //nolint:gosec // likewise
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"

	"github.com/zeebo/blake3"
)

// Algorithm is a hash algorithm that Nix knows by name. The zero value is no
// algorithm.
type Algorithm uint8

// The algorithms, spelled as in Nix: md5, sha1, sha256, sha512, blake3.
const (
	None Algorithm = iota
	MD5
	SHA1
	SHA256
	SHA512
	BLAKE3
)

// maxSize is the size of the longest digest in bytes.
const maxSize = 64

var algorithms = [...]struct {
	name string
	size int
	new  func() hash.Hash
}{
	None:   {"none", 0, nil},
	MD5:    {"md5", md5.Size, md5.New},
	SHA1:   {"sha1", sha1.Size, sha1.New},
	SHA256: {"sha256", sha256.Size, sha256.New},
	SHA512: {"sha512", sha512.Size, sha512.New},
	BLAKE3: {"blake3", 32, func() hash.Hash { return blake3.New() }},
}

// ParseAlgorithm reads the name of an algorithm.
func ParseAlgorithm(name string) (Algorithm, error) {
	for a := MD5; a <= BLAKE3; a++ {
		if algorithms[a].name == name {
			return a, nil
		}
	}
	return None, fmt.Errorf("%w: unknown hash algorithm %q, expect 'blake3', 'md5', 'sha1', 'sha256', or 'sha512'", ErrFormat, clip(name))
}

// String is the name of the algorithm.
func (a Algorithm) String() string { return algorithms[a].name }

// Size is the length of a digest in bytes.
func (a Algorithm) Size() int { return algorithms[a].size }

// New starts a computation. It panics for None.
func (a Algorithm) New() hash.Hash { return algorithms[a].new() }
