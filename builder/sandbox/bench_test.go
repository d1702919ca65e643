package sandbox_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/strata-nix/strata/builder/sandbox"
)

// BenchmarkNothing is the overhead of a builder that does nothing.
func BenchmarkNothing(b *testing.B) {
	for _, isolated := range []bool{true, false} {
		b.Run(fmt.Sprintf("isolated=%t", isolated), func(b *testing.B) {
			var in *sandbox.Isolation
			if isolated {
				in = world(b)
			}
			spec := shell(in, "")
			spec.Path, spec.Args = "/bin/true", []string{"true"}
			for b.Loop() {
				run(b, spec)
			}
		})
	}
}

// BenchmarkInputs is the same with a closure of inputs.
func BenchmarkInputs(b *testing.B) {
	for _, n := range []int{30, 300, 3000} {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			in := world(b)
			dir := b.TempDir()
			os.Chmod(filepath.Dir(dir), 0o755)
			for i := range n {
				name := fmt.Sprintf("input-%d", i)
				source := filepath.Join(dir, name)
				if err := os.Mkdir(source, 0o755); err != nil {
					b.Fatal(err)
				}
				in.Mounts = append(in.Mounts, sandbox.Mount{Source: source, Target: "/nix/store/" + name})
			}
			spec := shell(in, "")
			spec.Path, spec.Args = "/bin/true", []string{"true"}
			for b.Loop() {
				run(b, spec)
			}
		})
	}
}
