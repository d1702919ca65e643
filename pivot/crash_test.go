package pivot_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/pivot"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

const (
	crashAtEnv = "PIVOT_TEST_CRASH_AT"
	crashInEnv = "PIVOT_TEST_CRASH_IN"
)

// TestMain lets the test binary be a process that moves an upper and is killed on the way.
func TestMain(m *testing.M) {
	if at, err := strconv.Atoi(os.Getenv(crashAtEnv)); err == nil {
		crashpoint.KillAt(at, func(name string) { fmt.Print(name) })
	}
	os.Exit(m.Run())
}

// TestCrashChild is what the child does: it begins, or goes on with what was begun.
func TestCrashChild(t *testing.T) {
	in := os.Getenv(crashInEnv)
	if in == "" {
		return // only as a child
	}
	w := &world{t: t, dir: in, links: store.Roots{}}
	parts := w.parts(w.openLowers("old"), w.openLowers("new"))
	for _, name := range []string{"mine", "app"} {
		w.readRoot(name)
	}
	job, err := pivot.Open(parts)
	if errors.Is(err, pivot.ErrNoJob) {
		var p *pivot.Plan
		if p, err = pivot.Make(context.Background(), parts, pivot.Options{DropRoots: true}); err == nil {
			job, err = pivot.Begin(context.Background(), parts, p, nil)
		}
	}
	if err == nil {
		err = goOn(context.Background(), job)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// readRoot finds a root that an earlier process made.
func (w *world) readRoot(name string) {
	link := w.path("state/gcroots/" + name)
	target, err := os.Readlink(link)
	if err != nil {
		return
	}
	if p, err := dir.Parse(target); err == nil {
		w.links[p] = []string{link}
	}
}

// crashWorld has something of everything in it.
func crashWorld(t *testing.T) *world {
	w := newWorld(t)
	libc, lib, tool, idle, app := tree(t, "libc"), tree(t, "lib", tree(t, "libc")), file(t, "tool"), file(t, "idle"), tree(t, "app")
	leaned, part, dup, shadow := tree(t, "leaned"), tree(t, "part"), tree(t, "dup"), tree(t, "shadow")
	mine := tree(t, "mine", lib, tool, leaned, part)
	w.lower("old", libc, lib, tool, idle, app, leaned, part)
	w.rows(libc, lib, tool, idle, leaned, part)
	w.own(dup, mine)
	if err := os.MkdirAll(w.inLayer(part)+"/share", 0o755); err != nil {
		t.Fatal(err)
	}
	w.setxattr(w.inLayer(part), "origin", "\x00\xfb\x00")
	w.unpack(shadow, true)
	fresh := tree(t, "fresh")
	w.whiteout(fresh.Path().Base())
	w.root("mine", mine.Path())
	w.root("app", app.Path())
	w.lower("new", tool, dup, shadow, fresh, other(t, leaned, tool))
	return w
}

// Wherever it is killed, it can be gone on with, and before the commit rolled back; then
// all is as it was, or as it is to be.
func TestKilledAnywhere(t *testing.T) {
	testenv.Long(t)
	met := 0
	for point := 0; ; point++ {
		w := crashWorld(t)
		before := w.holds()
		out, err := w.child(point)
		if err == nil {
			break
		}
		met++
		parts := w.parts(w.openLowers("old"), w.openLowers("new"))
		h, err := pivot.Peek(parts.Journal)
		switch {
		case errors.Is(err, pivot.ErrNoJob):
			if !slices.Equal(w.holds(), before) { // it was over
				w.moved(parts.New)
			}
			continue
		case err != nil:
			t.Fatalf("point %d, %s: %v", point, out, err)
		}
		if h.Phase == pivot.Planned || h.Phase == pivot.Staged {
			job, err := pivot.Open(parts)
			if err == nil {
				err = job.Rollback(t.Context())
			}
			if err != nil {
				t.Fatalf("point %d, %s: %v", point, out, err)
			}
			if got := w.holds(); !slices.Equal(got, before) {
				t.Errorf("point %d, %s: rolled back, the layer holds %q, and had %q", point, out, got, before)
			}
			w.nothingLiesAbout()
			if _, err := w.child(point); err == nil { // to the same point again
				t.Fatalf("point %d, %s: not killed again", point, out)
			}
		}
		// Killed once more while it goes on, and then let go.
		_, _ = w.child(point % 5)
		if out, err := w.child(1000); err != nil {
			t.Fatalf("point %d: %v, %s", point, err, out)
		}
		w.moved(w.openLowers("new"))
		if t.Failed() {
			t.Fatalf("point %d, %s", point, out)
		}
	}
	if met < 15 {
		t.Errorf("only %d points were met", met)
	}
}

// child runs a process that is killed at a point.
func (w *world) child(point int) (string, error) {
	w.t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestCrashChild$")
	cmd.Env = append(os.Environ(), crashAtEnv+"="+strconv.Itoa(point), crashInEnv+"="+w.dir)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState.String() != "signal: killed" {
		w.t.Fatalf("point %d: %v\n%s", point, err, out)
	}
	return string(out), err
}

// moved sees that crashWorld has come to its end.
func (w *world) moved(new []pivot.Lower) {
	w.t.Helper()
	w.wantHolds("lib", "libc", "mine", "part")
	w.wantRows("dup", "leaned", "lib", "libc", "mine", "part", "tool")
	w.sound(new)
	if _, err := os.Lstat(w.path("state/gcroots/app")); err == nil {
		w.t.Error("the root of what is gone is still there")
	}
	if valid, err := w.openDB().ValidPaths(w.t.Context(), []storepath.Path{tree(w.t, "app").Path()}); err != nil || len(valid) > 0 {
		w.t.Errorf("app is valid: %v", err)
	}
}
