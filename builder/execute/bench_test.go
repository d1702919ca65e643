package execute

import (
	"path/filepath"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
)

func BenchmarkBuildDirectory(b *testing.B) {
	parent := filepath.Join(testenv.Scratch(b), "builds")
	for b.Loop() {
		d, err := newBuildDir(b.Context(), parent, true, nil)
		if err != nil {
			b.Fatal(err)
		}
		d.remove(b.Context())
	}
}

func BenchmarkTerminal(b *testing.B) {
	for b.Loop() {
		term, err := openTerminal(nil)
		if err != nil {
			b.Fatal(err)
		}
		term.close()
	}
}
