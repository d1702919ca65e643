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
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/overlayfs"
)

const (
	crashAtEnv = "STACK_TEST_CRASH_AT"
	crashIn    = "STACK_TEST_CRASH_IN"
	crashTmpfs = "STACK_TEST_CRASH_TMPFS" // not empty: with an upper in memory
)

// TestMain lets the test binary be a process that brings a stack up, takes it
// down again, and is killed on the way.
func TestMain(m *testing.M) {
	if at, err := strconv.Atoi(os.Getenv(crashAtEnv)); err == nil {
		if do := os.Getenv(crashDoEnv); do != "" {
			pivotAndDie(do, os.Getenv(crashIn), at)
		}
		upAndDown(os.Getenv(crashIn), at)
	}
	if at, err := strconv.Atoi(os.Getenv(leanAtEnv)); err == nil {
		leanAndDie(os.Getenv(crashIn), at)
	}
	if at, err := strconv.Atoi(os.Getenv(modelAtEnv)); err == nil {
		stepAndDie(at)
	}
	if upper := os.Getenv(askAsEnv); upper != "" {
		askUpper(upper)
	}
	os.Exit(m.Run())
}

func upAndDown(dir string, at int) {
	crashpoint.KillAt(at, nil)
	ctx := context.Background()
	c := Config{Upper: Upper{Dir: dir + "/upper"}, Root: dir + "/root", Lowers: []Lower{{Path: dir + "/l1"}, {Path: dir + "/root"}}}
	if os.Getenv(crashTmpfs) != "" {
		c.Upper.Tmpfs = 64 << 20
	}
	c, err := c.Resolve("/")
	if err == nil {
		var s *Stack
		if s, err = Assemble(ctx, c, parts()); err == nil {
			err = errors.Join(s.Announce(ctx, nil), s.TakeDown(ctx, TakeDownOptions{}))
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// crash lets go of a stack as the end of its process would.
func crash(t *testing.T, s *Stack) {
	t.Helper()
	s.control.close()
	s.stopBackground()
	if err := errors.Join(s.Store.Close(), s.lock.Close()); err != nil {
		t.Fatal(err)
	}
	s.run.Process.Start-- // another process, as far as anybody can tell
	if err := s.run.save(); err != nil {
		t.Fatal(err)
	}
}

// Wherever a process is killed, the next one brings everything up, and nothing
// is left when that has ended.
func TestKilledAnywhere(t *testing.T) {
	testenv.Long(t)
	killedAnywhere(t, 0)
}

func TestKilledAnywhereWithAThrowawayUpper(t *testing.T) {
	testenv.Long(t)
	t.Setenv(crashTmpfs, "1")
	killedAnywhere(t, 64<<20)
}

func killedAnywhere(t *testing.T, tmpfs uint64) {
	inEach(t, func(t *testing.T, w *world) {
		a, b := object(t, "a"), object(t, "b")
		w.lower(t, "l1", a)
		w.lower(t, "root", b)
		points := 0
		for ; ; points += stride(t) {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), crashAtEnv+"="+strconv.Itoa(points), crashIn+"="+w.dir)
			out, err := cmd.CombinedOutput()
			if err == nil {
				break // it got through
			}
			if ws := cmd.ProcessState.String(); ws != "signal: killed" {
				t.Fatalf("point %d: %s\n%s", points, ws, out)
			}
			if points%2 == 0 { // by the next up …
				c := w.config(t, w.path("l1"), w.path("root"))
				c.Upper.Tmpfs = tmpfs
				s := w.up(t, c)
				has(t, s, a)
				has(t, s, b)
				if st := s.Status(t.Context()); len(st.Problems) > 0 {
					t.Errorf("point %d: %q", points, st.Problems)
				}
				w.takeDown(t, s)
				continue
			}
			// … or by down.
			r, err := FindUpper(w.path("upper"))
			if errors.Is(err, ErrNotUp) {
				w.nothingStays(t)
				continue
			}
			if err == nil {
				err = Down(t.Context(), r, DownOptions{})
			}
			if err != nil {
				t.Fatalf("point %d: %v", points, err)
			}
			w.nothingStays(t)
		}
		if points < 10 {
			t.Errorf("only %d points were met", points)
		}
		w.nothingStays(t)
	})
}

// Programs may run from what a killed process left mounted.
func TestMountsOfAKilledProcessAreTakenOver(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		a := object(t, "a")
		c := w.config(t, w.lower(t, "base", a), w.lower(t, "other", object(t, "b")))
		s := w.up(t, c)
		first := s.run.mounts()
		user := exec.Command("sleep", "1000")
		user.Dir = s.Config.Mount
		if err := user.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _, _ = user.Process.Kill(), user.Wait() }()
		crash(t, s)
		s = w.up(t, c)
		if got := s.run.mounts(); !slices.EqualFunc(got, first, func(a, b Mounted) bool { return a.Record.UniqueID == b.Record.UniqueID }) {
			t.Errorf("mounted anew: %+v", got)
		}
		has(t, s, a)
		crash(t, s)

		// Other lowers are another mount. The old one is in use, and goes on read-only.
		c.Lowers = c.Lowers[:1]
		s = w.up(t, c)
		if len(s.run.Mounts) == 0 || s.run.Mounts[0].Record.UniqueID == first[0].Record.UniqueID {
			t.Error("the mount of other lowers was taken over")
		}
		has(t, s, a)
		cwd := fmt.Sprintf("/proc/%d/cwd", user.Process.Pid)
		if _, err := os.Lstat(filepath.Join(cwd, a.Path().Base())); err != nil {
			t.Errorf("what runs over the old mount lost it: %v", err)
		}
		if err := os.Mkdir(filepath.Join(cwd, "x"), 0o755); !errors.Is(err, unix.EROFS) {
			t.Errorf("the old mount can be written to: %v", err)
		}
		addTo(t, s.Store, object(t, "c"))

		// That it still is in use does not keep the upper from being mounted again.
		w.takeDown(t, s)
		s = w.up(t, c)
		has(t, s, object(t, "c"))
		_, _ = user.Process.Kill(), user.Wait()
		w.takeDown(t, s)
	})
}

// What is mounted where a killed process had its mounts is not ours to touch.
func TestMountsOfOthersStay(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		c := w.config(t, w.lower(t, "base"))
		s := w.up(t, c)
		crash(t, s)
		if err := unix.Mount("tmpfs", s.Config.Mount, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		r, err := FindUpper(w.path("upper"))
		if err != nil {
			t.Fatal(err)
		}
		var se *overlayfs.StateError
		if err := Down(t.Context(), r, DownOptions{Lazy: true}); !errors.As(err, &se) || se.State != overlayfs.Covered {
			t.Errorf("%v", err)
		}
		if err := unix.Unmount(s.Config.Mount, 0); err != nil {
			t.Fatal(err)
		}
		if r, err = FindUpper(w.path("upper")); err == nil {
			err = Down(t.Context(), r, DownOptions{})
		}
		if err != nil {
			t.Error(err)
		}
		w.nothingStays(t)
	})
}
