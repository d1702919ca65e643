package lazy_test

import (
	"testing"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/store/binarycache"
	"github.com/strata-nix/strata/store/lazy"
	"github.com/strata-nix/strata/store/storetest"
)

// A large file that is read from its beginning comes by large requests; when its reader stops, little more has come than
// was read, however much that was. What was read backwards and twice is complete in the end.
func TestReadingALargeFile(t *testing.T) {
	const size, read = 96 << 20, 40 << 20
	text := noise(1, 1<<20)
	for len(text) < size {
		text += text
	}
	text = text[:size-12345]
	o := storetest.Tree(t, dir, "o", map[string]string{"large": text, "small": "small"})
	from := indexed(t, "a", binarycache.Options{Compression: compress.None}, o)
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.origin(true)}}, lazy.CacheOptions{})
	ob, node, err := s.find(t.Context(), o.Path(), "large")
	if err != nil {
		t.Fatal(err)
	}
	piece := func(off, n int) {
		t.Helper()
		p := make([]byte, n)
		if n, err := ob.ReadAt(t.Context(), node, p, int64(off)); err != nil || string(p[:n]) != text[off:min(size-12345, off+len(p))] {
			t.Fatalf("at %d: %d bytes, %v", off, n, err)
		}
	}
	for off := 0; off < read; off += 128 << 10 {
		piece(off, 128<<10)
	}
	s.settled()
	if n, parts := from.taken(); n > read+40<<20 || parts > 140 {
		t.Errorf("%d bytes came by %d requests for one who read %d", n, parts, read)
	}
	if ob, node, err = s.find(t.Context(), o.Path(), "large"); err != nil {
		t.Fatal(err)
	}
	for off := size - 1<<20; off >= 0; off -= 1 << 20 {
		piece(off, 1<<20)
	}
	s.wants(o.Path(), "small", "small")
	s.settled()
	if n, _ := from.taken(); n > size-read+2<<20 {
		t.Errorf("%d bytes came for the rest", n)
	}
	if !s.cache.Has(o.Path()) {
		t.Error("it is not complete")
	}
}
