package execute_test

import (
	"fmt"
	"testing"

	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/store"
)

// BenchmarkTrivial builds derivations whose builder does nothing but make its
// output, from the job to the registration.
func BenchmarkTrivial(b *testing.B) {
	run := func(name string, world func(testing.TB) *world) {
		b.Run(name, func(b *testing.B) {
			w := world(b)
			var jobs []*execute.Job
			for i := range b.N {
				jobs = append(jobs, w.job(b, script(fmt.Sprintf("echo %d > $out", i))))
			}
			x := execute.New(w.backing, w.opts)
			b.ResetTimer()
			for _, j := range jobs {
				r, err := x.Build(b.Context(), j)
				if err != nil || r.Status != store.Built {
					b.Fatal(r, err)
				}
			}
		})
	}
	run("boxed", boxed)
	run("unboxed", unboxed)
}
