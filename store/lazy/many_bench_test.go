package lazy_test

import (
	"fmt"
	"testing"

	"github.com/strata-nix/strata/store/lazy"
	"github.com/strata-nix/strata/store/storetest"
)

// Reading all files of an object that has very many, for the first time.
func BenchmarkManySmallFiles(b *testing.B) {
	const n = 20_000
	files := make(map[string]string, 2*n)
	for i := range n {
		files[fmt.Sprintf("before/%06d", i)] = "not read"
		files[fmt.Sprintf("flat/file-%06d", i)] = fmt.Sprintf("content of %d\n", i)
	}
	o := storetest.Tree(b, dir, "many", files)
	from := indexed(b, "a", forms["zstd"], o)
	for b.Loop() {
		s := newSetup(b, lazy.Options{Origins: []lazy.Origin{from.origin(true)}}, lazy.CacheOptions{})
		ob, first, err := s.find(b.Context(), o.Path(), "flat/file-000000")
		if err != nil {
			b.Fatal(err)
		}
		var p [100]byte
		for i := range uint32(n) {
			if _, err := ob.ReadAt(b.Context(), first+i, p[:], 0); err != nil {
				b.Fatal(err)
			}
		}
		s.settled()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/n, "µs/file")
}
