package testenv

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Strata returns the path of the strata binary, built from this source tree as
// it is released: static, without cgo. The build happens once per test process
// unless STRATA_BIN names a binary, which is then taken as it is. It is no race binary: see [LongWithRace].
func Strata(t testing.TB) string {
	t.Helper()
	LongWithRace(t)
	path, err := strataBinary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var strataBinary = sync.OnceValues(func() (string, error) {
	if bin := os.Getenv("STRATA_BIN"); bin != "" {
		return filepath.Abs(bin)
	}
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	return buildStrata(context.Background(), root, filepath.Join(cache, "bin"))
})

// buildStrata builds into dir under a name made of the content, so that a
// binary that another test process runs is never replaced.
func buildStrata(ctx context.Context, root, dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	unlock, err := lockFile(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	part := filepath.Join(dir, "part")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", part, "./cmd/strata")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build strata: %w\n%s", err, out)
	}
	content, err := os.ReadFile(part)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(content)
	bin := filepath.Join(dir, "strata-"+hex.EncodeToString(sum[:10]))
	if err := os.Rename(part, bin); err != nil {
		return "", err
	}
	dropOld(dir, bin)
	return bin, nil
}

// dropOld removes binaries of former source trees. A day is longer than any
// test run, and what cannot be removed is tried again next time.
func dropOld(dir, keep string) {
	all, _ := filepath.Glob(filepath.Join(dir, "strata-*"))
	for _, bin := range all {
		if fi, err := os.Stat(bin); bin != keep && err == nil && time.Since(fi.ModTime()) > 24*time.Hour {
			os.Remove(bin)
		}
	}
}
