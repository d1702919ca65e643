package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/pivot"
	"github.com/strata-nix/strata/store/storetest"
)

// crashDoEnv says what a child of these tests does: "move" an upper that is not up, "pivot" one
// that is, or bring it "up" over the new lower.
const crashDoEnv = "STACK_TEST_CRASH_DO"

// pivotAndDie does that, and is killed at a mark, whose name it prints.
func pivotAndDie(do, dir string, at int) {
	ctx := context.Background()
	old, next := Lower{Path: dir + "/old"}, Lower{Path: dir + "/next"}
	c := Config{Upper: Upper{Dir: dir + "/upper"}, Root: dir + "/root", Lowers: []Lower{old}}
	if do == "up" {
		c.Lowers = []Lower{next}
	}
	c, err := c.Resolve("/")
	kill := func() { crashpoint.KillAt(at, func(name string) { fmt.Print(name) }) }
	if do != "pivot" {
		kill()
	}
	switch {
	case err != nil:
	case do == "move":
		_, err = MoveUpper(ctx, c, parts(), PivotOptions{Lowers: []Lower{next}})
	default:
		var s *Stack
		if s, err = Assemble(ctx, c, parts()); err != nil {
			break
		}
		if err = s.Announce(ctx, nil); err == nil && do == "pivot" {
			kill()
			_, err = s.Pivot(ctx, PivotOptions{Lowers: []Lower{next}})
		}
		crashpoint.KillAt(1<<30, nil)
		err = errors.Join(err, s.TakeDown(ctx, TakeDownOptions{}))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// child runs such a process, and gives the mark at which it was killed, "" if it got through.
func (w *world) child(t *testing.T, do string, at int) string {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), crashAtEnv+"="+strconv.Itoa(at), crashIn+"="+w.dir, crashDoEnv+"="+do)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return ""
	}
	if ws := cmd.ProcessState.String(); ws != "signal: killed" {
		t.Fatalf("%s, point %d: %s\n%s", do, at, ws, out)
	}
	return string(out)
}

// Wherever it is killed, the stack comes up over the new lower, or, as long as it is not committed,
// over the old one, and everything is there.
func TestPivotKilledAnywhere(t *testing.T) {
	testenv.Long(t)
	for _, do := range []string{"pivot", "move", "up"} {
		t.Run(do, func(t *testing.T) {
			t.Parallel()
			inEach(t, func(t *testing.T, w *world) { pivotKilledAnywhere(t, w, do) })
		})
	}
}

func pivotKilledAnywhere(t *testing.T, w *world, do string) {
	r := newRelease(t, w)
	old, next := w.config(t, r.old), w.config(t, r.next)
	s := w.up(t, old)
	r.fill(t, s)
	w.takeDown(t, s)
	var nix *testenv.NixEnv
	if do == "pivot" && strings.HasSuffix(t.Name(), "/root") { // once for each mark is enough
		nix = stockLayered(t)
	}
	points := 0
	for ; ; points += stride(t) {
		var user *running
		if do != "move" { // a process that was killed has left a mount, from which a program runs
			s = w.up(t, old)
			user = runFrom(t, s, r.tool)
			crash(t, s)
		}
		at := w.child(t, do, points)
		s = w.recover(t, r, at, points%2 == 0, old, next)
		if nix != nil {
			w.stockAgrees(t, nix, s)
		}
		if user != nil {
			user.works()
			user.end()
		}
		w.takeDown(t, s)
		s = w.up(t, old) // and back
		addTo(t, s.Store, r.dup)
		sound(t, s)
		if got := inLayer(t, &s.Config); !slices.Equal(got, []string{"dup", "mine"}) {
			t.Errorf("back again, the layer holds %q", got)
		}
		w.takeDown(t, s)
		if t.Failed() {
			t.Fatalf("killed at point %d: %s", points, at)
		}
		if at == "" {
			break
		}
	}
	if points < 15 {
		t.Errorf("only %d points were met", points)
	}
}

// recover brings the stack up after its process was killed: over the old lower, if undo is wanted and
// it is not too late, else over the new one.
func (w *world) recover(t *testing.T, r *releases, at string, undo bool, old, next Config) *Stack {
	t.Helper()
	h, err := pivot.Peek(w.path("upper/pivot.journal"))
	if err != nil && !errors.Is(err, pivot.ErrNoJob) {
		t.Fatalf("%s: %v", at, err)
	}
	made, err := ReadMade(w.path("upper"))
	if err != nil {
		t.Fatal(err)
	}
	if h != nil && h.Phase != pivot.Planned && h.Phase != pivot.Staged || made.Lowers[0].Given == r.next || !undo {
		s := w.up(t, next)
		r.moved(t, s)
		nothingAside(t, &s.Config)
		return s
	}
	s := w.up(t, old)
	for _, o := range []storetest.Object{r.libc, r.tool, r.mine, r.dup} {
		has(t, s, o)
	}
	sound(t, s)
	if err := os.WriteFile(filepath.Join(s.Config.Mount, "x"), nil, 0o600); err != nil {
		t.Errorf("undone, it cannot be written to: %v", err)
	} else if err := os.Remove(filepath.Join(s.Config.Mount, "x")); err != nil {
		t.Error(err)
	}
	if got := inLayer(t, &s.Config); !slices.Equal(got, []string{"dup", "mine"}) {
		t.Errorf("undone, the layer holds %q", got)
	}
	nothingAside(t, &s.Config)
	return s
}
