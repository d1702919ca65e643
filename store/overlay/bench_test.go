package overlay_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/overlay"
	"github.com/strata-nix/strata/storepath"
)

// lowerPaths is how many paths each lower has.
const lowerPaths = 20_000

// benchStack is an upper that has nothing over some lowers that have only rows. There
// is no mount, as nothing is read but databases.
func benchStack(b *testing.B, lowers int) (s *overlay.Store, paths []storepath.Path) {
	b.Helper()
	dir := b.TempDir()
	var below []store.Store
	for i := range lowers {
		root := filepath.Join(dir, fmt.Sprint("lower", i))
		db, err := nixdb.Open(b.Context(), filepath.Join(root, "nix/var/nix/db"), nixdb.Options{Dir: storepath.DefaultDir})
		if err != nil {
			b.Fatal(err)
		}
		_, err = db.Load(b.Context(), func(yield func(nixdb.Registration, error) bool) {
			for k := range lowerPaths {
				p, err := storepath.DefaultDir.MakeOutput("out", nixhash.Of(nixhash.SHA256, fmt.Sprint(i, k)), "lower-path")
				paths = append(paths, p)
				info := &store.PathInfo{Path: p, NarHash: nixhash.Of(nixhash.SHA256, "nar"), NarSize: 1}
				if k > 0 {
					info.References = []storepath.Path{paths[len(paths)-2]}
				}
				if !yield(nixdb.Registration{Info: info}, err) {
					return
				}
			}
		})
		if err != nil {
			b.Fatal(err)
		}
		if err := db.Close(); err != nil {
			b.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(root, "nix/store"), 0o755); err != nil {
			b.Fatal(err)
		}
		lower, err := local.Open(b.Context(), local.Options{Root: root, ReadOnly: true})
		if err != nil {
			b.Fatal(err)
		}
		below = append(below, lower)
	}
	root := filepath.Join(dir, "merged")
	if err := os.MkdirAll(filepath.Join(dir, "upper"), 0o755); err != nil {
		b.Fatal(err)
	}
	o := overlay.Options{Upper: local.Options{Root: root}, UpperLayer: filepath.Join(dir, "upper"), NoCheckMount: true}
	s, err := overlay.Open(b.Context(), o, below)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	// Not in the order in which they are on disk.
	for i := range paths {
		k := i * 7919 % len(paths)
		paths[i], paths[k] = paths[k], paths[i]
	}
	return s, paths
}

// BenchmarkLookup asks about paths that only lowers have.
func BenchmarkLookup(b *testing.B) {
	for _, lowers := range []int{1, 4} {
		s, paths := benchStack(b, lowers)
		for _, n := range []int{1, 100} {
			for _, q := range []struct {
				name string
				ask  func([]storepath.Path) error
			}{
				{"ValidPaths", func(set []storepath.Path) error { _, err := s.ValidPaths(b.Context(), set); return err }},
				{"PathInfos", func(set []storepath.Path) error { _, err := s.PathInfos(b.Context(), set); return err }},
			} {
				b.Run(fmt.Sprintf("%s/lowers=%d/paths=%d", q.name, lowers, n), func(b *testing.B) {
					at := 0
					b.ReportAllocs()
					for b.Loop() {
						if at+n > len(paths) {
							at = 0
						}
						if err := q.ask(paths[at : at+n]); err != nil {
							b.Fatal(err)
						}
						at += n
					}
				})
			}
		}
	}
}
