package local_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/strata-nix/strata/check"
	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/substitute"
)

// repairVar is set for the child that is killed: how many marks it lives for, the
// directory of its store, and that of another which has the objects.
const repairVar = "STRATA_TEST_REPAIR"

func repairOptions(root, cache string) local.Options {
	return local.Options{
		Root: root, Substituters: []string{"local?root=" + cache},
		Pool: substitute.NewPool(func(ctx context.Context, _ string) (store.Store, error) {
			return local.Open(ctx, local.Options{Root: cache, ReadOnly: true})
		}),
	}
}

// TestKilledRepair kills a process at every mark of a repair of many things. Whatever it
// leaves, the next repair brings to an end, and a stock Nix finds nothing.
func TestKilledRepair(t *testing.T) {
	if at := os.Getenv(repairVar); at != "" {
		f := strings.Split(at, "?")
		n, err := strconv.Atoi(f[0])
		must(t, err)
		s := open(t, repairOptions(f[1], f[2]))
		crashpoint.KillAt(n, nil)
		_, err = s.Check(t.Context(), check.Options{Contents: true, Repair: true, Drop: true})
		must(t, err)
		fmt.Println("lived")
		return
	}
	testenv.Long(t)
	marks := 0
	for ; ; marks++ {
		cache := testenv.Scratch(t)
		w := newChecked(t, testenv.Scratch(t))
		c, err := local.Open(t.Context(), local.Options{Root: cache})
		must(t, err)
		add(t, c, append(slices.Clone(w.chain), w.tree)...)
		must(t, c.Close())
		for _, d := range damages {
			switch d.name {
			case "row of a file that is needed", "modified tree", "nobody has it", "link", "object", "foreign file", "lock file",
				"temporary roots", "gc.lock is a directory", "indirect root", "root of nothing", "no index", "path that cannot be read", "reference to nothing":
				d.do(t, w)
			}
		}
		child := exec.Command("/proc/self/exe", "-test.run=^TestKilledRepair$")
		child.Env = append(os.Environ(), fmt.Sprintf("%s=%d?%s?%s", repairVar, marks, w.root, cache))
		out, err := child.CombinedOutput()
		lived := err == nil && strings.Contains(string(out), "lived")
		if !lived && child.ProcessState.String() != "signal: killed" {
			t.Fatalf("mark %d: %v\n%s", marks, err, out)
		}
		w.o = repairOptions(w.root, cache)
		if r := w.run(t, check.Options{Contents: true, Repair: true, Drop: true}); left(r) > 0 {
			t.Errorf("killed at mark %d, the next repair leaves %q", marks, sentences(r))
		}
		if r := w.run(t, check.Options{Contents: true}); left(r) > 0 {
			t.Errorf("killed at mark %d, after the next repair: %q", marks, sentences(r))
		}
		if v, err := open(t, w.o).ValidPaths(t.Context(), pathsOf(w.chain)); err != nil || len(v) != len(w.chain) {
			t.Errorf("killed at mark %d: %d of the chain are valid, %v", marks, len(v), err)
		}
		must(t, testenv.RemoveAll(filepath.Join(cache, "nix")))
		if lived {
			break
		}
	}
	if marks < 8 {
		t.Errorf("only %d marks were met", marks)
	}
}

func pathsOf(objects []storetest.Object) []storepath.Path {
	out := make([]storepath.Path, len(objects))
	for i, o := range objects {
		out[i] = o.Path()
	}
	return out
}
