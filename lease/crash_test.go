package lease

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
	"github.com/strata-nix/strata/storepath"
)

const (
	crashAtEnv = "LEASE_TEST_CRASH_AT"
	crashIn    = "LEASE_TEST_CRASH_IN"
)

// TestMain lets the test binary be a process that makes a place, publishes, collects,
// and is killed on the way.
func TestMain(m *testing.M) {
	if at, err := strconv.Atoi(os.Getenv(crashAtEnv)); err == nil {
		crashpoint.KillAt(at, nil)
		if err := publishAndCollect(os.Getenv(crashIn)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// crashPath is what the process leases.
func crashPath() storepath.Path {
	p, err := storepath.ParseBase("00000000000000000000000000000000-crash")
	if err != nil {
		panic(err)
	}
	return p
}

func crashKeeper(p *Place) (*Keeper, error) {
	return NewKeeper(p, KeeperOptions{
		Consumer: "c", Holder: "h", StoreDir: storepath.DefaultDir,
		Uses:  func(context.Context) ([]storepath.Path, uint64, error) { return []storepath.Path{crashPath()}, 1, nil },
		Valid: func(_ context.Context, paths []storepath.Path) ([]storepath.Path, error) { return paths, nil },
	})
}

func publishAndCollect(dir string) error {
	ctx := context.Background()
	p, err := OpenDirectory(dir)
	if err != nil {
		return err
	}
	if err := p.Init(ctx, Terms{}); err != nil {
		return err
	}
	k, err := crashKeeper(p)
	if err != nil {
		return err
	}
	for range 2 {
		if _, err := k.Renew(ctx); err != nil {
			return err
		}
	}
	c, err := p.Collect(ctx, "child")
	if err != nil {
		return err
	}
	return c.End()
}

// Wherever a process is killed, what is there can be read, a lease that was published
// stays, and the next process goes on.
func TestKilledAnywhere(t *testing.T) {
	for at := 0; ; at++ {
		dir := filepath.Join(t.TempDir(), "leases")
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), crashAtEnv+"="+strconv.Itoa(at), crashIn+"="+dir)
		out, runErr := cmd.CombinedOutput()
		if runErr != nil && cmd.ProcessState.String() != "signal: killed" {
			t.Fatalf("%v: %s", runErr, out)
		}
		p, err := OpenDirectory(dir)
		if err != nil {
			t.Fatal(err)
		}
		_, all, err := p.List(t.Context())
		if err != nil && (at > 0 || !errors.Is(err, ErrNoTerms)) {
			t.Fatalf("point %d: %v", at, err)
		}
		if want := min(max(at, 0), 1); runErr != nil && len(all) < want || len(all) > 0 && all[0].Err != nil {
			t.Errorf("point %d: %+v", at, all)
		}
		was := uint64(0)
		if len(all) > 0 {
			was = all[0].Lease.Sequence
		}
		if err := p.Init(t.Context(), Terms{}); err != nil {
			t.Fatal(err)
		}
		k, err := crashKeeper(p)
		if err != nil {
			t.Fatal(err)
		}
		if l, err := k.Renew(t.Context()); err != nil || l.Sequence != was+1 {
			t.Errorf("point %d: %+v after %d, %v", at, l, was, err)
		}
		entries, err := os.ReadDir(filepath.Join(dir, leasesDir))
		if err != nil || len(entries) != 1 {
			t.Errorf("point %d: left are %v, %v", at, entries, err)
		}
		if runErr == nil {
			if at < 4 {
				t.Errorf("only %d points were met", at)
			}
			return
		}
	}
}
