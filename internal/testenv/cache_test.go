package testenv

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func TestConcurrentCallersShareOneBuild(t *testing.T) {
	t.Setenv("STRATA_TEST_CACHE", t.TempDir())
	var builds atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			dir, err := cached(t.Context(), "entry", false, func(_ context.Context, dir string) error {
				builds.Add(1)
				return os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o644)
			})
			if err != nil {
				t.Error(err)
			} else if _, err := os.Stat(filepath.Join(dir, "file")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := builds.Load(); n != 1 {
		t.Errorf("built %d times", n)
	}
}

func TestFailedBuildIsRememberedAndLeavesNothing(t *testing.T) {
	root := t.TempDir()
	t.Setenv("STRATA_TEST_CACHE", root)
	broken := errors.New("no network")
	fail := func(_ context.Context, dir string) error {
		os.WriteFile(filepath.Join(dir, "half"), nil, 0o644)
		return broken
	}
	if _, err := cached(t.Context(), "entry", false, fail); !errors.Is(err, broken) {
		t.Fatalf("first: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(root, "entry.part-*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	again := func(context.Context, string) error { return nil }
	var failed *failedError
	if _, err := cached(t.Context(), "entry", false, again); !errors.As(err, &failed) || !strings.Contains(err.Error(), "no network") {
		t.Errorf("second: %v", err)
	}
	if _, err := cached(t.Context(), "entry", true, again); err != nil {
		t.Errorf("retry: %v", err)
	}
	if _, err := cached(t.Context(), "entry", false, fail); err != nil {
		t.Errorf("once it is there: %v", err)
	}
}

func TestBuildRemovesWhatAKilledOneLeft(t *testing.T) {
	root := t.TempDir()
	t.Setenv("STRATA_TEST_CACHE", root)
	sealed := filepath.Join(root, "entry.part-1", "sealed")
	if err := os.MkdirAll(filepath.Join(sealed, "deeper"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(sealed, 0o555); err != nil {
		t.Fatal(err)
	}
	if _, err := cached(t.Context(), "entry", false, func(context.Context, string) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(root, "entry.part-*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestCancelledBuildIsNotRememberedAsFailed(t *testing.T) {
	t.Setenv("STRATA_TEST_CACHE", t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	_, err := cached(ctx, "entry", false, func(ctx context.Context, _ string) error {
		cancel()
		return ctx.Err()
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if _, err := cached(t.Context(), "entry", false, func(context.Context, string) error { return nil }); err != nil {
		t.Error(err)
	}
}

func TestWaitForALockEndsWithTheContext(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	unlock, err := lockFile(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lockFile(ctx, name); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	unlock()
	unlock, err = lockFile(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

func TestRemoveAllTakesReadOnlyDirectories(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	if err := os.MkdirAll(filepath.Join(dir, "object", "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"object/bin", "object", "."} {
		if err := os.Chmod(filepath.Join(dir, d), 0o555); err != nil {
			t.Fatal(err)
		}
	}
	if err := RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}
