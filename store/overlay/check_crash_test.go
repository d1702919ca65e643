package overlay_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/strata-nix/strata/check"
	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/overlay"
	"github.com/strata-nix/strata/substitute"
)

// repairVar is set for the child that is killed: how many marks it lives for, the
// directory of its world, and the store that has the objects.
const repairVar = "STRATA_TEST_REPAIR"

func poolOf(cache string) *substitute.Pool {
	return substitute.NewPool(func(ctx context.Context, _ string) (store.Store, error) {
		return local.Open(ctx, local.Options{Root: cache, ReadOnly: true})
	})
}

// Wherever a repair of layers is killed, the next one brings it to an end, and the lowers
// stay as they are.
func TestKilledRepairOfLayers(t *testing.T) {
	if at := os.Getenv(repairVar); at != "" {
		repairAndDie(t, at)
		return
	}
	testenv.Long(t)
	if !isolated(t) {
		return
	}
	nix := stockLayered(t)
	marks := 0
	for ; ; marks++ {
		c := newChecked(t)
		cache := testenv.Scratch(t)
		l, err := local.Open(t.Context(), local.Options{Root: cache})
		must(t, err)
		addTo(t, l, append(slices.Clone(c.chain), c.tree, c.spare)...)
		must(t, l.Close())
		for _, d := range layered {
			switch d.name {
			case "lower lost a file", "lower has other contents", "lower forgot a path", "upper has other contents",
				"whiteout of what nobody needs", "foreign file", "trash", "stray in the upper", "mode in the upper":
				d.do(t, c)
			}
		}
		c.addLower(t, 1, c.chain[0], c.chain[1], c.chain[2], c.chain[3]) // duplicates, one of them of a bad one
		lowers := c.snapshot(t)
		child := exec.Command("/proc/self/exe", "-test.run=^TestKilledRepairOfLayers$")
		child.Env = append(os.Environ(), fmt.Sprintf("%s=%d?%s?%s", repairVar, marks, c.dir, cache))
		out, err := child.CombinedOutput()
		lived := err == nil && strings.Contains(string(out), "lived")
		if !lived && child.ProcessState.String() != "signal: killed" {
			t.Fatalf("mark %d: %v\n%s", marks, err, out)
		}
		c.o.Upper.Pool = poolOf(cache)
		upper := []string{"upper"}
		if r := c.run(t, check.Options{Contents: true, Repair: true, Layers: upper}); left(r) > 0 {
			t.Errorf("killed at mark %d, the next repair leaves %q", marks, sentences(r))
		}
		if r := c.run(t, check.Options{Contents: true, Layers: upper}); left(r) > 0 {
			t.Errorf("killed at mark %d, after the next repair: %q", marks, sentences(r))
		}
		if c.snapshot(t) != lowers {
			t.Errorf("killed at mark %d: a lower was written to", marks)
		}
		c.with(t, func(s *overlay.Store) { c.stockAgrees(t, nix, s) })
		if lived {
			break
		}
	}
	if marks < 8 {
		t.Errorf("only %d marks were met", marks)
	}
}

// repairAndDie is the child.
func repairAndDie(t *testing.T, at string) {
	f := strings.Split(at, "?")
	n, err := strconv.Atoi(f[0])
	must(t, err)
	w := &world{dir: f[1], lowers: []string{f[1] + "/lower0", f[1] + "/lower1"}}
	o := w.options()
	o.Upper.Substituters, o.Upper.Pool = []string{"local?root=" + f[2]}, poolOf(f[2])
	s, err := overlay.Open(t.Context(), o, w.openLowers(t))
	must(t, err)
	defer func() { _ = s.Close() }()
	crashpoint.KillAt(n, nil)
	_, err = s.Check(t.Context(), check.Options{Contents: true, Repair: true, Layers: []string{"upper"}})
	must(t, err)
	fmt.Println("lived")
}
