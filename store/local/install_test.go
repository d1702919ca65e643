package local_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
)

// leave makes a canonical tree of one file.
func leave(t *testing.T, path, contents string) string {
	t.Helper()
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "a"), []byte(contents), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := nar.Canonicalise(t.Context(), path, nar.CanonicaliseOptions{}); err != nil {
		t.Fatal(err)
	}
	return path
}

// An ordinary user owns the directories of his store, and may not write to them.
func TestInstall(t *testing.T) {
	if !testenv.Unprivileged(t) {
		return
	}
	s := open(t, local.Options{Root: testenv.Scratch(t), FsyncStorePaths: true})
	o := storetest.Tree(t, s.Dir(), "x", map[string]string{"a": "new"})
	real := filepath.Join(s.RealDir(), o.Path().Base())
	for _, before := range []string{"nothing", "directory", "file"} {
		switch before {
		case "directory":
			if err := os.Chmod(real, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(real, "b"), nil, 0o444); err != nil {
				t.Fatal(err)
			}
		case "file":
			if _, err := nar.RemoveTree(t.Context(), real); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(real, nil, 0o444); err != nil {
				t.Fatal(err)
			}
		}
		tmp, remove, err := s.TempDir(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		unlock, err := s.LockPath(t.Context(), o.Path(), true)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := s.LockPath(t.Context(), o.Path(), false); err != nil || second != nil {
			t.Errorf("two have the lock: %v", err)
		}
		if err := s.Install(t.Context(), leave(t, filepath.Join(tmp, "x"), "new"), o.Path()); err != nil {
			t.Fatalf("over a %s: %v", before, err)
		}
		if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
			t.Errorf("over a %s: %v is left, %v", before, left, err)
		}
		remove()
		if err := s.Register(t.Context(), []*store.PathInfo{o.Info}); err != nil {
			t.Fatal(err)
		}
		unlock()
		if damaged, err := s.Verify(t.Context(), store.VerifyOptions{CheckContents: true}); err != nil || damaged {
			t.Errorf("over a %s: damaged, %v", before, err)
		}
		if st, err := os.Lstat(real); err != nil || st.Mode() != os.ModeDir|0o555 {
			t.Errorf("over a %s: %v, %v", before, st.Mode(), err)
		}
	}
	s.Withdraw(t.Context(), o.Path()) // it is valid
	if _, err := os.Lstat(real); err != nil {
		t.Error(err)
	}
}

func TestInstallFromAnotherFileSystem(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	s := open(t, local.Options{Root: testenv.Scratch(t)})
	elsewhere := testenv.Scratch(t)
	if err := unix.Mount("tmpfs", elsewhere, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(elsewhere, 0) }()
	o := storetest.Tree(t, s.Dir(), "x", map[string]string{"a": "new"})
	from := leave(t, filepath.Join(elsewhere, "x"), "new")
	if err := s.Install(t.Context(), from, o.Path()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(from); err == nil {
		t.Error("the original is still there")
	}
	if err := s.Register(t.Context(), []*store.PathInfo{o.Info}); err != nil {
		t.Fatal(err)
	}
	if damaged, err := s.Verify(t.Context(), store.VerifyOptions{CheckContents: true}); err != nil || damaged {
		t.Errorf("damaged: %v", err)
	}
}
