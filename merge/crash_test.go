package merge_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/merge"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
)

const (
	crashAt   = "MERGE_TEST_CRASH_AT"
	crashFrom = "MERGE_TEST_CRASH_FROM"
	crashTo   = "MERGE_TEST_CRASH_TO"
	crashKind = "MERGE_TEST_CRASH_KIND"
)

// TestMain lets the test binary be a process that is killed on the way.
func TestMain(m *testing.M) {
	if at, err := strconv.Atoi(os.Getenv(crashAt)); err == nil {
		crashpoint.KillAt(at, nil)
		if err := mergeOnce(context.Background(), os.Getenv(crashFrom), os.Getenv(crashTo), os.Getenv(crashKind)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func mergeOnce(ctx context.Context, root, target, kind string) (err error) {
	s, err := local.Open(ctx, local.Options{Root: root, ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	p, err := merge.MakePlan(ctx, []merge.Layer{{Name: "base", Store: s, Dir: s.RealDir(), Take: merge.All}}, merge.Options{})
	if err != nil {
		return err
	}
	if kind == "image" {
		_, err = p.WriteImage(ctx, target, merge.WriteOptions{})
	} else {
		_, err = p.WriteDirectory(ctx, target, merge.WriteOptions{})
	}
	return err
}

// Wherever it is killed, there is all of the target or nothing, and the next run makes it.
func TestKilledAnywhere(t *testing.T) {
	testenv.Long(t)
	l := layer(t, merge.All, []storetest.Object{file(t, "a"), tree(t, "tree")})
	root := filepath.Dir(filepath.Dir(l.Dir))
	for _, kind := range []string{"directory", "image"} {
		points := 0
		for ; ; points++ {
			scratch := testenv.Scratch(t)
			target := filepath.Join(scratch, "made")
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), crashAt+"="+strconv.Itoa(points), crashFrom+"="+root, crashTo+"="+target, crashKind+"="+kind)
			out, err := cmd.CombinedOutput()
			if err == nil {
				break
			}
			if ws := cmd.ProcessState.String(); ws != "signal: killed" {
				t.Fatalf("%s, point %d: %s\n%s", kind, points, ws, out)
			}
			err = mergeOnce(t.Context(), root, target, kind)
			if _, there := os.Lstat(target); there == nil && errors.Is(err, merge.ErrExists) {
				err = nil // it had been published
			}
			if err != nil {
				t.Fatalf("%s, point %d: %v", kind, points, err)
			}
			if entries, err := os.ReadDir(scratch); err != nil || len(entries) != 1 {
				t.Errorf("%s, point %d: there are %v, %v", kind, points, entries, err)
			}
			if kind == "directory" {
				same(t, plan(t, merge.Options{}, l), target, []merge.Layer{l})
			}
		}
		if points < 4 {
			t.Errorf("%s: only %d points were met", kind, points)
		}
	}
}
