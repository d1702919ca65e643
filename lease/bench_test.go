package lease

import (
	"context"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/storepath"
)

// BenchmarkRoots reads what a thousand consumers have leased, three hundred roots
// each of which many have the same, from a directory.
func BenchmarkRoots(b *testing.B) {
	d, err := objstore.NewDirectory(b.TempDir()) // not durable: making them is not what is measured
	if err != nil {
		b.Fatal(err)
	}
	p := NewPlace(d, d.Path())
	ctx := context.Background()
	if err := p.Init(ctx, Terms{}); err != nil {
		b.Fatal(err)
	}
	var all []storepath.Path
	for i := range 30_000 {
		var h [HashLen]byte
		binary.BigEndian.PutUint64(h[:], uint64(i)*0x9e3779b97f4a7c15)
		q, err := storepath.FromParts(h[:], "p")
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, q)
	}
	for i := range 1000 {
		k, err := NewKeeper(p, KeeperOptions{
			Consumer: fmt.Sprintf("c%d", i), Holder: "h", StoreDir: storepath.DefaultDir,
			Uses: func(context.Context) ([]storepath.Path, uint64, error) { return all[i*29 : i*29+300], 3000, nil },
		})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := k.Renew(ctx); err != nil {
			b.Fatal(err)
		}
	}
	lower := listed{paths: all}
	b.ReportAllocs()
	for b.Loop() {
		roots, err := p.Roots(ctx, lower)
		if err != nil || len(roots) < 29_000 {
			b.Fatal(len(roots), err)
		}
	}
}

// BenchmarkLean leans on a new path each time, in a directory: two files are read, one is
// written and forced to disk.
func BenchmarkLean(b *testing.B) {
	p, err := OpenDirectory(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	if err := p.Init(ctx, Terms{}); err != nil {
		b.Fatal(err)
	}
	k, err := NewKeeper(p, KeeperOptions{
		Consumer: "c", Holder: "h", StoreDir: storepath.DefaultDir,
		Uses:  func(context.Context) ([]storepath.Path, uint64, error) { return nil, 0, nil },
		Valid: func(_ context.Context, paths []storepath.Path) ([]storepath.Path, error) { return paths, nil },
	})
	if err != nil {
		b.Fatal(err)
	}
	i := uint64(0)
	for b.Loop() {
		i++
		var h [HashLen]byte
		binary.BigEndian.PutUint64(h[:], i)
		q, err := storepath.FromParts(h[:], "p")
		if err != nil {
			b.Fatal(err)
		}
		if err := k.Lean(ctx, []storepath.Path{q}); err != nil {
			b.Fatal(err)
		}
	}
}
