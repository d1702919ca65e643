package fileindex_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/strata-nix/strata/fileindex"
)

// Whatever comes: an index that can be used without fear, and is printed as it was written, or ErrFormat.
func FuzzParse(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := fileindex.Parse(dir, "fuzz", data)
		if err != nil {
			if !errors.Is(err, fileindex.ErrFormat) {
				t.Fatal(err)
			}
			return
		}
		x, err := s.Decode()
		if err != nil {
			if !errors.Is(err, fileindex.ErrFormat) {
				t.Fatal(err)
			}
			return
		}
		c := x.Contents
		at := int64(0)
		var order []int
		for i, k := range c.Within(0, int64(c.NarSize())) {
			if k != c.Chunk(i) || k.Nar < at || k.Size <= 0 || uint64(k.Nar+k.Size) > x.NarSize {
				t.Fatalf("chunk %d: %+v after %d", i, k, at)
			}
			at, order = k.Nar+k.Size, append(order, i)
			if from, to := x.Span(k.Nar, k.Size); from > k.Nar || to < at {
				t.Fatalf("chunk %d is not in its span", i)
			}
			if len(x.Frames) > 0 {
				if from, length, skip := x.InFile(k.Nar, k.Size); from < 0 || length <= 0 || skip < 0 || uint64(from+length) > x.FileSize {
					t.Fatalf("chunk %d is at %d, %d, %d", i, from, length, skip)
				}
			}
		}
		var back []int
		for i, k := range c.Before(int64(c.NarSize())) {
			if k != c.Chunk(i) {
				t.Fatalf("chunk %d, from the end: %+v", i, k)
			}
			back = append(back, i)
		}
		if slices.Reverse(back); !slices.Equal(back, order) {
			t.Fatalf("from the end %v, from the beginning %v", back, order)
		}
		if c.Listing().Root == nil {
			t.Fatal("no root")
		}
		again, err := x.Encode(dir)
		if err != nil {
			t.Fatal(err)
		}
		reread, err := fileindex.Parse(dir, "again", again)
		if err != nil || reread.Header != s.Header || bytes.Contains(again, []byte("\nSig: ")) {
			t.Fatalf("%v", err)
		}
	})
}

// Scan and the layout of the tree agree about every NAR that can be read.
func FuzzScan(f *testing.F) {
	f.Fuzz(func(t *testing.T, archive []byte) {
		last := int64(0)
		c, err := fileindex.Scan(bytes.NewReader(archive), func(off int64) {
			if off <= last {
				t.Fatalf("cut at %d after %d", off, last)
			}
			last = off
		})
		if err == nil && c.NarSize() > uint64(len(archive)) {
			t.Fatal("a NAR that is longer than what it was read from")
		}
	})
}
