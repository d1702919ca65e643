package profile

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/internal/testenv"
)

const (
	crashAtEnv = "PROFILE_TEST_CRASH_AT"
	crashIn    = "PROFILE_TEST_CRASH_IN"
)

// TestMain lets the test binary be a process that prunes and is killed on the way.
func TestMain(m *testing.M) {
	if at, err := strconv.Atoi(os.Getenv(crashAtEnv)); err == nil {
		crashpoint.KillAt(at, nil)
		if _, err := PruneAll(context.Background(), []string{os.Getenv(crashIn)}, Old{}, false, nil); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// makeProfile makes generations of the given ages in days, numbered from 1, and makes one
// of them current.
func makeProfile(t *testing.T, profile string, current int, ages ...int) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(profile), 0o755); err != nil {
		t.Fatal(err)
	}
	for i, age := range ages {
		link := fmt.Sprintf("%s-%d-link", profile, i+1)
		if err := os.Symlink("/nix/store/00000000000000000000000000000000-env-"+strconv.Itoa(i), link); err != nil {
			t.Fatal(err)
		}
		at := unix.NsecToTimespec(now.AddDate(0, 0, -age).UnixNano())
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, link, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(fmt.Sprintf("%s-%d-link", filepath.Base(profile), current), profile); err != nil {
		t.Fatal(err)
	}
}

func left(t *testing.T, profile string) (numbers []int) {
	t.Helper()
	all, _, err := Generations(profile)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range all {
		numbers = append(numbers, int(g.Number))
	}
	return numbers
}

func TestPrune(t *testing.T) {
	for _, c := range []struct {
		name    string
		current int
		ages    []int
		days    int // 0: all old ones
		want    []int
	}{
		{"all", 3, []int{30, 20, 10}, 0, []int{3}},
		{"the current one is not the newest", 2, []int{30, 20, 10}, 0, []int{2}},
		{"what was current at that time stays", 4, []int{40, 30, 20, 1}, 25, []int{2, 3, 4}},
		{"nothing is that old", 2, []int{3, 2}, 25, []int{1, 2}},
		{"all are that old", 3, []int{90, 80, 70}, 25, []int{3}},
		{"gone back to an old one", 1, []int{90, 80, 70, 60}, 25, []int{1, 4}},
		{"one", 1, []int{90}, 25, []int{1}},
		{"the current one is missing", 9, []int{90, 80}, 0, []int{1, 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			profile := filepath.Join(t.TempDir(), "p")
			makeProfile(t, profile, c.current, c.ages...)
			makeProfile(t, profile+"-1", 1, 90, 80) // its generations are p-1-1-link
			var o Old
			if c.days > 0 {
				o.Before = now.AddDate(0, 0, -c.days)
			}
			would, err := Prune(t.Context(), profile, o, true)
			if err != nil || len(left(t, profile)) != len(c.ages) {
				t.Fatalf("a dry run: %v", err)
			}
			gone, err := Prune(t.Context(), profile, o, false)
			if err != nil || !slices.Equal(gone, would) {
				t.Errorf("deleted %v, %v; a dry run said %v", gone, err, would)
			}
			if got := left(t, profile); !slices.Equal(got, c.want) {
				t.Errorf("left are %v, not %v", got, c.want)
			}
			if got := left(t, profile+"-1"); len(got) != 2 {
				t.Errorf("another profile lost generations: %v", got)
			}
			if _, err := os.Lstat(profile + ".lock"); err == nil {
				t.Error("its lock stays")
			}
		})
	}
}

func TestPruneAll(t *testing.T) {
	if !testenv.Unprivileged(t) {
		return
	}
	dir := t.TempDir()
	mine, other, sealed := filepath.Join(dir, "per-user/me/profile"), filepath.Join(dir, "system"), filepath.Join(dir, "sealed/profile")
	for _, p := range []string{mine, other, sealed} {
		makeProfile(t, p, 2, 20, 10, 5)
	}
	makeProfile(t, filepath.Join(dir, "per-user/me/kept"), 2, 20, 10)
	// What is no profile must not be taken for one, nor stop anything.
	for link, to := range map[string]string{"default": "per-user/me/profile", "loop": "loop", "store": "/nix/store/x-link"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Dir(sealed), 0o555); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Dir(sealed), 0o755) })
	may := func(p string) bool { return filepath.Base(p) != "kept" }
	gone, err := PruneAll(t.Context(), []string{dir, filepath.Join(dir, "per-user"), filepath.Join(dir, "absent")}, Old{}, false, may)
	if err != nil || len(gone) != 4 {
		t.Errorf("%d are gone: %v", len(gone), err)
	}
	for p, want := range map[string]int{mine: 1, other: 1, sealed: 3, filepath.Join(dir, "per-user/me/kept"): 2} {
		if got := left(t, p); len(got) != want {
			t.Errorf("%s: left are %v", p, got)
		}
	}
}

// Wherever it is killed, the current generation stays, and the next run does the rest.
func TestPruneKilledAnywhere(t *testing.T) {
	for at := 0; ; at++ {
		dir := t.TempDir()
		makeProfile(t, filepath.Join(dir, "p"), 4, 40, 30, 20, 10)
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), crashAtEnv+"="+strconv.Itoa(at), crashIn+"="+dir)
		out, err := cmd.CombinedOutput()
		if err != nil && cmd.ProcessState.String() != "signal: killed" {
			t.Fatalf("%v: %s", err, out)
		}
		if got := left(t, filepath.Join(dir, "p")); !slices.Contains(got, 4) {
			t.Fatalf("point %d: the current generation is gone: %v", at, got)
		}
		if _, err := PruneAll(t.Context(), []string{dir}, Old{}, false, nil); err != nil {
			t.Fatal(err)
		}
		if got := left(t, filepath.Join(dir, "p")); !slices.Equal(got, []int{4}) {
			t.Errorf("point %d: left are %v", at, got)
		}
		if err == nil {
			if at < 3 {
				t.Errorf("only %d points were met", at)
			}
			return
		}
	}
}

// Stock Nix keeps and deletes the same ones.
func TestAsStockNix(t *testing.T) {
	testenv.Long(t)
	nix := testenv.Nix(t, "2.34")
	for i, c := range []struct {
		current int
		ages    []int
		arg     string
		days    int
	}{
		{4, []int{40, 30, 20, 1}, "25d", 25},
		{1, []int{90, 80, 70, 60}, "25d", 25},
		{3, []int{90, 80, 70}, "25d", 25},
		{2, []int{30, 20, 10}, "", 0},
	} {
		now = time.Now().Add(-time.Hour)
		theirs, ours := filepath.Join(nix.Dir, "theirs", strconv.Itoa(i), "p"), filepath.Join(nix.Dir, "ours", strconv.Itoa(i), "p")
		makeProfile(t, theirs, c.current, c.ages...)
		makeProfile(t, ours, c.current, c.ages...)
		arg := "old"
		var o Old
		if c.days > 0 {
			arg, o.Before = c.arg, time.Now().AddDate(0, 0, -c.days)
		}
		nix.Run(t, "nix-env", "--profile", theirs, "--delete-generations", arg)
		if _, err := Prune(t.Context(), ours, o, false); err != nil {
			t.Fatal(err)
		}
		if a, b := left(t, theirs), left(t, ours); !slices.Equal(a, b) {
			t.Errorf("%d: stock Nix leaves %v, and we %v", i, a, b)
		}
	}
}
