package store

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"slices"
	"strings"
)

// SortSignatures sorts and drops doubles, in the order in which Nix prints
// signatures: by key name, then by the bytes of the signature, which is not the
// order of the texts.
func SortSignatures(sigs []Signature) []Signature {
	if len(sigs) > 1 {
		slices.SortFunc(sigs, CompareSignatures)
	}
	return slices.Compact(sigs)
}

// CompareSignatures is the order of SortSignatures.
func CompareSignatures(a, b Signature) int {
	aName, aSig, _ := strings.Cut(string(a), ":")
	bName, bSig, _ := strings.Cut(string(b), ":")
	if c := cmp.Compare(aName, bName); c != 0 {
		return c
	}
	aBytes, aErr := base64.StdEncoding.DecodeString(aSig)
	bBytes, bErr := base64.StdEncoding.DecodeString(bSig)
	if c := bytes.Compare(aBytes, bBytes); c != 0 && aErr == nil && bErr == nil {
		return c
	}
	return cmp.Compare(aSig, bSig)
}
