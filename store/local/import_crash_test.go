package local_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// importVar is set for the child that is killed: the directory of its store.
const importVar = "STRATA_TEST_IMPORT"

// TestKilledImport kills a process in the middle of an import, at several moments.
// What it leaves is garbage, which the next opening removes.
func TestKilledImport(t *testing.T) {
	objects := storetest.Web(t, storepath.DefaultDir, 100)
	if root := os.Getenv(importVar); root != "" {
		importAndHang(t, root, objects)
		return
	}
	for _, at := range []int{0, 1, 50, 99} {
		root := testenv.Scratch(t)
		killImport(t, root, at)
		tmp := filepath.Join(root, "nix/store", gc.TempName)
		if _, err := os.Lstat(tmp); err != nil {
			t.Fatalf("killed at %d, it left nothing: %v", at, err)
		}
		s := open(t, local.Options{Root: root})
		if _, err := os.Lstat(tmp); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("killed at %d: %v", at, err)
		}
		valid := storepath.Set{}
		for i, o := range objects {
			v, err := s.ValidPaths(t.Context(), []storepath.Path{o.Path()})
			if err != nil {
				t.Fatal(err)
			}
			if len(v) > 0 {
				valid.Add(o.Path())
				var b bytes.Buffer
				if err := s.NarFromPath(t.Context(), o.Path(), &b); err != nil || !bytes.Equal(b.Bytes(), o.NAR) {
					t.Errorf("killed at %d: object %d is valid and has %d bytes (%v)", at, i, b.Len(), err)
				}
			}
		}
		if _, err := store.Closure(t.Context(), s, valid.Sorted()); err != nil {
			t.Errorf("killed at %d: %v", at, err)
		}
		imports, opened := offered(objects)
		if err := s.Import(t.Context(), imports, store.ImportOptions{}); err != nil {
			t.Errorf("killed at %d, and again: %v", at, err)
		}
		for i := range opened {
			if n := opened[i].Load(); n != 0 == valid.Has(objects[i].Path()) {
				t.Errorf("killed at %d: object %d was fetched %d times after that", at, i, n)
			}
		}
		if damaged, err := s.Verify(t.Context(), store.VerifyOptions{CheckContents: true}); err != nil || damaged {
			t.Errorf("killed at %d: %v, %v", at, damaged, err)
		}
		// Lock files are garbage that a collection takes.
		if _, err := s.CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit}); err != nil {
			t.Error(err)
		}
		clean(t, s)
	}
}

// killImport has a child import, and kills it when one object has half come.
func killImport(t *testing.T, root string, at int) {
	t.Helper()
	child := exec.Command("/proc/self/exe", "-test.run=^TestKilledImport$")
	child.Env = append(os.Environ(), fmt.Sprintf("%s=%s?%d", importVar, root, at))
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "hanging\n" {
		t.Errorf("the child said %q (%v)", line, err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = child.Wait() // it was killed
}

// importAndHang is the child.
func importAndHang(t *testing.T, rootAt string, objects []storetest.Object) {
	root, number, _ := strings.Cut(rootAt, "?")
	var at int
	if _, err := fmt.Sscan(number, &at); err != nil {
		t.Fatal(err)
	}
	s := open(t, local.Options{Root: root})
	imports, _ := offered(objects)
	imports[at].Offers[0] = objects[at].Hanging(func() { fmt.Println("hanging") })
	t.Error(s.Import(t.Context(), imports, store.ImportOptions{}))
}
