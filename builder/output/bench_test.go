package output_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/builder/output"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// BenchmarkRegister measures outputs of some hundred megabytes, and one that is
// next to nothing. In a sandbox an input-addressed output is read once and moved; a
// content-addressed one with references to itself is read twice and copied.
func BenchmarkRegister(b *testing.B) {
	for _, c := range []struct {
		name  string
		o     derivation.Output
		files int
		size  int
	}{
		{"nothing", inputAddressed, 1, 10},
		{"large", inputAddressed, 4, 64 << 20},
		{"large, floating", floating(storepath.Recursive), 4, 64 << 20},
		{"many", inputAddressed, 10_000, 4 << 10},
	} {
		b.Run(c.name, func(b *testing.B) {
			s, err := local.Open(b.Context(), local.Options{Root: testenv.Scratch(b)})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			w := worldOf(b, s)
			var inputs []*store.PathInfo
			for i := range 500 {
				inputs = append(inputs, storetest.File(b, s.Dir(), fmt.Sprint("in", i), "").Info)
			}
			data := make([]byte, c.size)
			rnd := rand.New(rand.NewPCG(1, 2))
			for i := range data {
				data[i] = byte(rnd.Uint32())
			}
			b.SetBytes(int64(c.files * c.size))
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				d := basic(c.o, "out")
				d.Env["nr"] = fmt.Sprint(i)
				job := w.job(b, d, atFinal)
				job.Inputs = inputs
				w.build(b, job, file{"out", "self", "{out}" + d.Env["nr"]})
				for n := range c.files {
					name := filepath.Join(job.Outputs["out"].Real, strings.Repeat("d/", n%5), fmt.Sprint(n))
					if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
						b.Fatal(err)
					}
					if err := os.WriteFile(name, data, 0o644); err != nil {
						b.Fatal(err)
					}
				}
				b.StartTimer()
				r, err := output.Register(b.Context(), s, job, output.Options{})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := testenv.RemoveAll(filepath.Join(s.RealDir(), r.Infos["out"].Path.Base())); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
