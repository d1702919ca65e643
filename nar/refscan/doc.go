// Package refscan searches byte streams for the hash parts of store paths.
//
// Nix learns what a store object refers to by looking for the 32-character hash
// parts of candidate paths in its archive, wherever they are. Scanner does
// that. Rewriter replaces hash parts by others of the same length, as is done
// when an object is moved to its final, content-addressed path. Modulo hashes
// an object that refers to itself, whose path depends on its hash.
//
// What upstream does is in src/libstore/references.cc.
//
// A hash part is found only if it is there as such: not in compressed or UTF-16
// data, and not split, as some file systems and executables do with long
// strings.
package refscan

import (
	"fmt"
	"math/bits"
)

// Len is the length of a hash part, in bytes: 20 bytes in Nix's base 32.
const Len = 32

// alphabet is that of Nix's base 32. It lacks e, o, t and u.
const alphabet = "0123456789abcdfghijklmnpqrsvwxyz"

// noDigit is the value in digits of bytes that are not in the alphabet.
const noDigit = 0xff

var digits = func() (t [256]byte) {
	for i := range t {
		t[i] = noDigit
	}
	for i := range len(alphabet) {
		t[alphabet[i]] = byte(i)
	}
	return t
}()

// CheckHashPart says whether s has the form of a hash part.
func CheckHashPart(s string) error {
	if len(s) != Len {
		return fmt.Errorf("%q is no hash part: it has %d characters, not %d", s, len(s), Len)
	}
	for i := range len(s) {
		if digits[s[i]] == noDigit {
			return fmt.Errorf("%q is no hash part: %q is not in base 32", s, s[i])
		}
	}
	return nil
}

// A matcher finds any of a set of hash parts in a buffer.
type matcher struct {
	parts map[[Len]byte]int // to their numbers
	// starts has a bit for each combination of three digits that a part begins
	// with, to leave the map alone in long runs of digits.
	starts [1 << 15 / bits.UintSize]uint
}

func (m *matcher) add(part string, number int) error {
	if err := CheckHashPart(part); err != nil {
		return err
	}
	if m.parts == nil {
		m.parts = make(map[[Len]byte]int)
	}
	m.parts[[Len]byte([]byte(part))] = number
	s := start([]byte(part))
	m.starts[s/bits.UintSize] |= 1 << (s % bits.UintSize)
	return nil
}

// start packs the first three digits of a window.
func start(w []byte) uint {
	_ = w[2]
	return uint(digits[w[0]])<<10 | uint(digits[w[1]])<<5 | uint(digits[w[2]])
}

// next finds the first part that begins at or after i and lies wholly in s, and
// its number; at is -1 if there is none.
//
// It looks at a window of 32 bytes from behind: a byte that is no digit rules
// out all windows that contain it, so that most data is skipped 32 bytes at a
// time.
func (m *matcher) next(s []byte, i int) (at, number int) {
	for i+Len <= len(s) {
		w := s[i : i+Len : i+Len]
		j := Len - 1
		for j >= 0 && digits[w[j]] != noDigit {
			j--
		}
		if j >= 0 {
			i += j + 1
			continue
		}
		for { // a window of digits; slide it along
			if k := start(s[i:]); m.starts[k/bits.UintSize]&(1<<(k%bits.UintSize)) != 0 {
				if n, ok := m.parts[[Len]byte(s[i:])]; ok {
					return i, n
				}
			}
			if i+Len == len(s) {
				return -1, 0
			}
			if digits[s[i+Len]] == noDigit {
				i += Len + 1
				break
			}
			i++
		}
	}
	return -1, 0
}
