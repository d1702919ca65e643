package lazy

import (
	"strings"
	"testing"

	"github.com/strata-nix/strata/storepath"
)

func FuzzManifest(f *testing.F) {
	f.Fuzz(func(t *testing.T, text []byte) {
		sc, err := ParseManifest("m", storepath.DefaultDir, text)
		if err != nil {
			return
		}
		var b strings.Builder
		for _, p := range sc.set.Sorted() {
			b.WriteString(storepath.DefaultDir.Print(p) + "\n")
		}
		again, err := ParseManifest("m", storepath.DefaultDir, []byte(b.String()))
		if err != nil || again.id() != sc.id() {
			t.Fatalf("%q: %v", text, err)
		}
	})
}

func FuzzNumbered(f *testing.F) {
	f.Fuzz(func(t *testing.T, line string) {
		e, err := parseNumbered(line)
		if err == nil && (e.path.IsZero() || !strings.HasSuffix(line, " "+e.path.Base())) {
			t.Fatalf("%q is %+v", line, e)
		}
	})
}
