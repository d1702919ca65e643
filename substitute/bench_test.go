package substitute_test

import (
	"context"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/substitute"
	"github.com/strata-nix/strata/trust"
)

// BenchmarkSubstitute takes a closure of 5,000 small signed objects from a source
// in memory: what is measured is planning, signatures, locks, files and the database.
func BenchmarkSubstitute(b *testing.B) {
	const n = 5000
	key, err := trust.GenerateKey("k-1")
	if err != nil {
		b.Fatal(err)
	}
	c := newCache()
	objects := storetest.Web(b, dir, n)
	plain := make([]storetest.Object, n) // that need their signatures
	for i, o := range objects {
		o = storetest.Tree(b, dir, "object", map[string]string{"bin/run": o.Path().Base(), "share/doc/readme": "read me"}).Plain(b, dir, false)
		for _, back := range []int{1, 3, 17} {
			if i%64 >= back {
				o.Info.References = append(o.Info.References, plain[i-back].Path())
			}
		}
		if i >= 64 {
			o.Info.References = append(o.Info.References, plain[i/64].Path())
		}
		if err := trust.Sign(o.Info, dir, key); err != nil {
			b.Fatal(err)
		}
		plain[i], c.objects[o.Path()] = o, o
	}
	pool := substitute.NewPool(func(context.Context, string) (store.Store, error) { return c, nil })
	for b.Loop() {
		b.StopTimer()
		s, err := local.Open(b.Context(), local.Options{
			Root: testenv.Scratch(b), Pool: pool, Substituters: []string{"cache://0"},
			RequireSigs: true, TrustedKeys: trust.Keys{}.WithSecret(key),
		})
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		results, err := s.Substitution().Substitute(b.Context(), substitute.Opaque(pathsOf(plain)...), substitute.Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		for _, r := range results {
			if r.Status != store.Substituted {
				b.Fatalf("%+v", r)
			}
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "objects/s")
}
