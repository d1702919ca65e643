package store

import (
	"slices"
	"testing"
)

func TestSortSignatures(t *testing.T) {
	got := SortSignatures([]Signature{"a-b:AAAA", "a:aaaa", "a:AAAA", "a:0000", "a:aaaa", "a:////"})
	// '-' comes before ':' and '0' before 'A' in the texts.
	want := []Signature{"a:AAAA", "a:aaaa", "a:0000", "a:////", "a-b:AAAA"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
