package btree_test

import (
	"fmt"
	"testing"

	"github.com/strata-nix/strata/nixdb/btree"
)

// BenchmarkFind finds entries in an index of texts as long as store paths, with all pages
// at hand: what is left is the search in them.
func BenchmarkFind(b *testing.B) {
	src, roots := build(b, 4096, "create table t (id integer primary key, path text, n integer)",
		"create index by_path on t (path)", "create index by_n on t (n)",
		"with recursive n(i) as (select 1 union all select i + 1 from n where i < 50000) "+
			"insert into t select i, printf('/nix/store/%032d-some-name-of-a-package-1.2.3', i * 7919 % 50000), i from n")
	f, err := btree.Open(shared{src})
	if err != nil {
		b.Fatal(err)
	}
	find := func(b *testing.B, tree string, in func(i int) btree.Range) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			found := false
			err := f.Tree(roots[tree]).Scan(in(i*7919%50000), func(btree.Record) (bool, error) { found = true; return false, nil })
			if err != nil || !found {
				b.Fatal(i, err)
			}
		}
	}
	b.Run("text", func(b *testing.B) {
		find(b, "by_path", func(i int) btree.Range {
			return btree.Text(fmt.Sprintf("/nix/store/%032d-some-name-of-a-package-1.2.3", i))
		})
	})
	b.Run("int", func(b *testing.B) { find(b, "by_n", func(i int) btree.Range { return btree.Int(int64(i + 1)) }) })
	b.Run("row", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, ok, err := f.Tree(roots["t"]).Row(int64(i%50000 + 1)); !ok || err != nil {
				b.Fatal(i, err)
			}
		}
	})
}

// shared hands out its own memory.
type shared struct{ *image }

func (s shared) Page(n uint32) ([]byte, error) { return s.bytes[int(n-1)*s.size : int(n)*s.size], nil }
