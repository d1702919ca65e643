package execute_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// A collection of garbage in the midst of a build takes nothing of it.
func TestGarbageIsCollectedMeanwhile(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.opts.Timeout = time.Minute
		dir := testenv.Scratch(t)
		if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // builders look into it
			t.Fatal(err)
		}
		w.opts.SandboxPaths = append(w.opts.SandboxPaths, execute.SandboxPath{Target: dir})
		for _, floating := range []bool{false, true} {
			d := script("echo half > $out; echo started; while [ ! -e " + dir + "/go ]; do sleep 0.01; done; read half < $out; echo $half whole > $out")
			if floating {
				d.Outputs["out"] = derivation.Output{Kind: derivation.Floating, Spec: storepath.Spec{Method: storepath.Recursive, Algorithm: nixhash.SHA256}}
			}
			started := make(chan struct{})
			w.heard.first = started
			go func() {
				<-started
				_, err := w.backing.(store.Collector).CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit})
				if err := errors.Join(err, os.WriteFile(filepath.Join(dir, "go"), nil, 0o600)); err != nil {
					t.Error(err)
				}
			}()
			if got := w.text(t, w.build(t, d), "out"); got != "half whole\n" {
				t.Errorf("%q", got)
			}
			if err := os.Remove(filepath.Join(dir, "go")); err != nil {
				t.Fatal(err)
			}
		}
	})
}
