package nixhash

import "fmt"

// Nix32Alphabet is the digits of nix32: no e, o, u, t.
const Nix32Alphabet = "0123456789abcdfghijklmnpqrsvwxyz"

var nix32Value = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xff
	}
	for i := range len(Nix32Alphabet) {
		t[Nix32Alphabet[i]] = byte(i)
	}
	return t
}()

// Nix32Len is the length of the nix32 spelling of n bytes.
func Nix32Len(n int) int {
	if n == 0 {
		return 0
	}
	return (n*8-1)/5 + 1
}

// IsNix32 tells whether every byte of s is a nix32 digit.
func IsNix32(s string) bool {
	for i := range len(s) {
		if nix32Value[s[i]] == 0xff {
			return false
		}
	}
	return true
}

// EncodeNix32 spells bytes in nix32: base 32 with the least significant digit
// last, where bit 0 is the lowest bit of the first byte.
func EncodeNix32(data []byte) string {
	out := make([]byte, Nix32Len(len(data)))
	for n := range out {
		b := uint(n) * 5
		i, j := b/8, b%8
		c := data[i] >> j
		if int(i)+1 < len(data) {
			c |= data[i+1] << (8 - j)
		}
		out[len(out)-1-n] = Nix32Alphabet[c&0x1f]
	}
	return string(out)
}

// DecodeNix32 is the inverse of EncodeNix32. It refuses digits outside the
// alphabet, and lengths and unused bits that no encoder writes.
func DecodeNix32(s string) ([]byte, error) {
	size := len(s) * 5 / 8
	if Nix32Len(size) != len(s) {
		return nil, fmt.Errorf("%w: '%s' has a length that nix32 does not have", ErrFormat, clip(s))
	}
	out := make([]byte, size)
	for n := range len(s) {
		v := nix32Value[s[len(s)-1-n]]
		if v == 0xff {
			return nil, fmt.Errorf("%w: invalid character %q in nix32 text '%s'", ErrFormat, s[len(s)-1-n], clip(s))
		}
		b := uint(n) * 5
		i, j := b/8, b%8
		out[i] |= v << j
		carry := v >> (8 - j)
		if int(i)+1 < size {
			out[i+1] |= carry
		} else if carry != 0 {
			return nil, fmt.Errorf("%w: '%s' has bits set beyond its last byte", ErrFormat, clip(s))
		}
	}
	return out, nil
}

// Compress folds a digest into n bytes by exclusive or, as store paths do.
func Compress(digest []byte, n int) []byte {
	out := make([]byte, n)
	for i, b := range digest {
		out[i%n] ^= b
	}
	return out
}
