package testenv

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// keepVar leaves the scratch directories of failed tests behind for a look.
const keepVar = "STRATA_TEST_KEEP"

// Scratch makes a directory that is removed with the test. It is for what
// t.TempDir is not: its path is short enough for sockets in it (108 bytes is
// all the kernel takes), other users can enter it, symlinks in its path are
// resolved, and its removal copes with the read-only directories of a Nix
// store. STRATA_TEST_KEEP=1 keeps it when the test fails.
func Scratch(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "strata-test-")
	if err != nil {
		t.Fatal(err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && flagSet(keepVar) {
			t.Logf("kept: %s", dir)
			return
		}
		if err := RemoveAll(dir); err != nil {
			t.Errorf("remove the scratch directory: %v", err)
		}
	})
	return dir
}

// RemoveAll is os.RemoveAll for trees with directories that their owner may
// not write to, such as store objects.
func RemoveAll(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	// What cannot be opened up shows again as the error of the second attempt.
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() && err == nil {
			os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}
