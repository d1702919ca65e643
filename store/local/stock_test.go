package local_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// Stock Nix finds nothing wrong with a store that strata wrote.
func TestStockNixVerifiesOurStore(t *testing.T) {
	testenv.EachNix(t, func(t *testing.T, nix *testenv.NixEnv) {
		s := open(t, local.Options{Root: nix.Dir})
		chain := storetest.Chain(t, s.Dir(), 5)
		built := storetest.Tree(t, s.Dir(), "built", map[string]string{"bin/x": "x", "y/z": "z"}, chain[4].Path()).Plain(t, s.Dir(), true)
		built.Info.Signatures = []store.Signature{"key-1:c2lnbmF0dXJl"}
		add(t, s, append(chain, built)...)
		drv := addDerivation(t, s)

		nix.Run(t, "nix-store", "--verify", "--check-contents")
		var all []string
		for p, err := range s.AllPaths(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, s.Dir().Print(p))
		}
		nix.Run(t, "nix-store", append([]string{"--verify-path"}, all...)...)
		refs := strings.Fields(nix.Run(t, "nix-store", "--query", "--requisites", s.Dir().Print(built.Path())))
		if len(refs) != 6 {
			t.Errorf("requisites: %q", refs)
		}
		hash := strings.TrimSpace(nix.Run(t, "nix-store", "--query", "--hash", s.Dir().Print(built.Path())))
		if hash != built.Info.NarHash.Text(nixhash.Nix32) {
			t.Errorf("hash %s, want %s", hash, built.Info.NarHash.Text(nixhash.Nix32))
		}
		out := strings.TrimSpace(nix.Run(t, "nix-store", "--query", "--outputs", s.Dir().Print(drv.Path)))
		if outputs, err := s.DerivationOutputs(t.Context(), drv.Path); err != nil || out != s.Dir().Print(outputs["out"]) {
			t.Errorf("outputs: %s, we say %v, %v", out, outputs, err)
		}
		nix.Run(t, "nix-store", "--delete", s.Dir().Print(built.Path()))
		if v, err := s.ValidPaths(t.Context(), []storepath.Path{built.Path()}); err != nil || len(v) != 0 {
			t.Errorf("after stock deleted it: %v, %v", v, err)
		}
	})
}

// Where a process unpacks stays when stock Nix collects garbage; when nobody works there it
// goes.
func TestStockNixLeavesOurTemporaryDirectory(t *testing.T) {
	testenv.EachNix(t, func(t *testing.T, nix *testenv.NixEnv) {
		s := open(t, local.Options{Root: nix.Dir})
		temp, remove, err := s.TempDir(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		nix.Run(t, "nix-store", "--gc")
		if _, err := os.Lstat(temp); err != nil {
			t.Errorf("while it is used: %v", err)
		}
		remove()
		dir := filepath.Join(nix.Store(), gc.TempName)
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("when nobody uses it: %v", err)
		}
		if err := os.MkdirAll(filepath.Join(dir, "1-left"), 0o700); err != nil {
			t.Fatal(err)
		}
		nix.Run(t, "nix-store", "--gc")
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("what is left of somebody who was killed: %v", err)
		}
	})
}

// addDerivation adds a derivation with the output path that it should have.
func addDerivation(t *testing.T, s *local.Store) *store.PathInfo {
	t.Helper()
	text := func(out string) store.Dump {
		return store.Dump{
			Name: "d.drv", Spec: storepath.Spec{Method: storepath.Text, Algorithm: nixhash.SHA256},
			Contents: strings.NewReader(`Derive([("out","` + out + `","","")],[],[],"x86_64-linux","/bin/sh",["-c","true"],[("name","d"),("out","` + out + `")])`),
		}
	}
	_, err := s.AddDump(t.Context(), text("/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-d"), store.AddOptions{})
	_, rest, ok := strings.Cut(fmt.Sprint(err), "should be '")
	if !ok {
		t.Fatalf("%v", err)
	}
	right, _, _ := strings.Cut(rest, "'")
	info, err := s.AddDump(t.Context(), text(right), store.AddOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// We find nothing wrong with a store that stock Nix wrote, and say the same of it.
func TestOurStoreReadsStockNix(t *testing.T) {
	testenv.EachNix(t, func(t *testing.T, nix *testenv.NixEnv) {
		a := strings.TrimSpace(nix.Run(t, "nix-store", "--add", nix.WriteFile(t, "a", "hello\n")))
		expr := nix.WriteFile(t, "x.nix", `derivation { name = "x"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ (builtins.toFile "script" "echo") ]; }`)
		drv := strings.TrimSpace(nix.Run(t, "nix-instantiate", expr))
		for _, readOnly := range []bool{false, true} {
			s := open(t, local.Options{Root: nix.Dir, ReadOnly: readOnly})
			for p, err := range s.AllPaths(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				info, err := store.PathInfoOf(t.Context(), s, p)
				if err != nil {
					t.Fatal(err)
				}
				hash := strings.TrimSpace(nix.Run(t, "nix-store", "--query", "--hash", s.Dir().Print(p)))
				if got := info.NarHash.Text(nixhash.Nix32); got != hash {
					t.Errorf("%s: hash %s, stock says %s", p, got, hash)
				}
				refs := strings.Fields(nix.Run(t, "nix-store", "--query", "--references", s.Dir().Print(p)))
				if got := s.Dir().PrintAll(info.References); strings.Join(got, " ") != strings.Join(refs, " ") {
					t.Errorf("%s: references %q, stock says %q", p, got, refs)
				}
			}
			for _, text := range []string{a, drv} {
				p, err := s.Dir().Parse(text)
				if err != nil {
					t.Fatal(err)
				}
				if v, err := s.ValidPaths(t.Context(), []storepath.Path{p}); err != nil || len(v) != 1 {
					t.Errorf("%s: %v, %v", text, v, err)
				}
			}
			if !readOnly {
				if damaged, err := s.Verify(t.Context(), store.VerifyOptions{CheckContents: true}); err != nil || damaged {
					t.Errorf("damaged %v, %v", damaged, err)
				}
			}
		}
	})
}

// A stock process and we collect and add on one store at the same moment.
func TestTempRootsHoldAgainstStockCollector(t *testing.T) {
	nix := testenv.Nix(t, "2.34")
	s := open(t, local.Options{Root: nix.Dir})
	chain := storetest.Chain(t, s.Dir(), 3)
	add(t, s, chain...)
	roots := s.NewTempRoots()
	if err := roots.Add(t.Context(), []storepath.Path{chain[1].Path()}); err != nil {
		t.Fatal(err)
	}
	// The number in the name of the file is ours, and means nothing in there.
	nix.Run(t, "nix-store", "--gc")
	if v, err := s.ValidPaths(t.Context(), []storepath.Path{chain[0].Path(), chain[1].Path(), chain[2].Path()}); err != nil || len(v) != 2 {
		t.Errorf("with a temporary root: %v, %v", v, err)
	}
	if err := roots.Close(); err != nil {
		t.Fatal(err)
	}
	nix.Run(t, "nix-store", "--gc")
	if v, err := s.ValidPaths(t.Context(), []storepath.Path{chain[0].Path()}); err != nil || len(v) != 0 {
		t.Errorf("without it: %v, %v", v, err)
	}
	if left := names(t, filepath.Join(nix.Dir, "nix/store")); len(left) != 1 {
		t.Errorf("left in the store directory: %q", left)
	}
}

// While we collect, a stock process that adds is answered.
func TestStockAddsDuringOurCollection(t *testing.T) {
	nix := testenv.Nix(t, "2.34")
	s := open(t, local.Options{Root: nix.Dir})
	for i := range 5 {
		done := make(chan string, 1)
		file := nix.WriteFile(t, fmt.Sprintf("f%d", i), fmt.Sprintf("contents %d", i))
		go func() {
			out, err := nix.Command(context.Background(), "nix-store", "--add-root", filepath.Join(nix.Dir, fmt.Sprintf("root%d", i)), "--indirect", "--add", file).CombinedOutput()
			done <- fmt.Sprint(string(out), err)
		}()
		for collected := 0; ; collected++ {
			if _, err := s.CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit}); err != nil {
				t.Fatal(err)
			}
			select {
			case out := <-done:
				if !strings.Contains(out, "<nil>") {
					t.Fatalf("after %d collections: %s", collected, out)
				}
			default:
				continue
			}
			break
		}
	}
}
