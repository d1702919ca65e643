package local_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/substitute"
)

func open(t *testing.T, o local.Options) *local.Store {
	t.Helper()
	s, err := local.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return s
}

func add(t *testing.T, s *local.Store, objects ...storetest.Object) {
	t.Helper()
	for _, o := range objects {
		if err := s.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{NoCheckSigs: true}); err != nil {
			t.Fatalf("adding %s: %v", o.Path(), err)
		}
	}
}

func TestStore(t *testing.T) {
	storetest.Run(t, storetest.Options{Open: func(t *testing.T) store.Store {
		return open(t, local.Options{Root: testenv.Scratch(t)})
	}})
}

func TestStoreWithoutPrivilege(t *testing.T) {
	if !testenv.Unprivileged(t) {
		return
	}
	storetest.Run(t, storetest.Options{Open: func(t *testing.T) store.Store {
		return open(t, local.Options{Root: testenv.Scratch(t), RequireSigs: true})
	}})
}

// listing is every entry below dir with its mode, size, time and contents.
func listing(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := e.Info()
		if err != nil {
			return err
		}
		text := st.Mode().String() + " " + st.ModTime().String()
		if st.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += " " + nixhash.Of(nixhash.SHA256, string(b)).String()
		}
		out[path] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func diff(t *testing.T, before, after map[string]string) {
	t.Helper()
	for p, text := range before {
		if after[p] != text {
			t.Errorf("%s: was %q, is %q", p, text, after[p])
		}
	}
	for p := range after {
		if _, ok := before[p]; !ok {
			t.Errorf("%s is new", p)
		}
	}
}

func TestObjectsHaveCanonicalMetadata(t *testing.T) {
	root := testenv.Scratch(t)
	s := open(t, local.Options{Root: root})
	o := storetest.Tree(t, s.Dir(), "tree", map[string]string{"bin/x": "x", "y": "y"})
	add(t, s, o)
	for name, mode := range map[string]fs.FileMode{"": fs.ModeDir | 0o555, "bin": fs.ModeDir | 0o555, "bin/x": 0o555, "y": 0o444} {
		st, err := os.Lstat(filepath.Join(root, "nix/store", o.Path().Base(), name))
		if err != nil || st.Mode() != mode || st.ModTime().Unix() != 1 {
			t.Errorf("%q: %v, %v", name, st, err)
		}
	}
}

func TestSignaturesAreRequired(t *testing.T) {
	s := open(t, local.Options{Root: testenv.Scratch(t), RequireSigs: true})
	o := storetest.File(t, s.Dir(), "built", "x").Plain(t, s.Dir(), false)
	err := s.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{})
	if !errors.Is(err, store.ErrNoSignature) {
		t.Errorf("without a signature: %v", err)
	}
	// What is addressed by its contents vouches for itself.
	ca := storetest.File(t, s.Dir(), "source", "x")
	if err := s.Add(t.Context(), ca.Info, ca.Reader(), store.AddOptions{}); err != nil {
		t.Errorf("content-addressed: %v", err)
	}
	v, err := s.Override(map[string]string{"require-sigs": "false"})
	if err != nil {
		t.Fatal(err)
	}
	if err := v.(store.Adder).Add(t.Context(), o.Info, o.Reader(), store.AddOptions{}); err != nil {
		t.Errorf("not required: %v", err)
	}
}

func TestReadOnlyStoreIsLeftAsItIs(t *testing.T) {
	root := testenv.Scratch(t)
	w := open(t, local.Options{Root: root})
	chain := storetest.Chain(t, w.Dir(), 3)
	add(t, w, chain...)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	before := listing(t, root)
	s := open(t, local.Options{Root: root, ReadOnly: true})
	if v, err := s.ValidPaths(t.Context(), []storepath.Path{chain[2].Path()}); err != nil || len(v) != 1 {
		t.Errorf("valid: %v, %v", v, err)
	}
	if err := s.NarFromPath(t.Context(), chain[2].Path(), io.Discard); err != nil {
		t.Error(err)
	}
	roots := s.NewTempRoots()
	if err := roots.Add(t.Context(), []storepath.Path{chain[0].Path()}); err != nil {
		t.Errorf("a temporary root: %v", err)
	}
	o := storetest.File(t, s.Dir(), "new", "x")
	for what, err := range map[string]error{
		"add":      s.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{NoCheckSigs: true}),
		"register": s.Register(t.Context(), []*store.PathInfo{o.Info}),
		"root":     s.AddIndirectRoot(t.Context(), "/x"),
		"sign":     s.AddSignatures(t.Context(), chain[0].Path(), []store.Signature{"a:AAAA"}),
	} {
		if !errors.Is(err, store.ErrReadOnly) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := s.CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit}); !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("gc: %v", err)
	}
	diff(t, before, listing(t, root))
}

func TestReadOnlyStoreMustExist(t *testing.T) {
	root := testenv.Scratch(t)
	if s, err := local.Open(t.Context(), local.Options{Root: root, ReadOnly: true}); err == nil {
		_ = s.Close()
		t.Error("a store that is not there was opened")
	}
	diff(t, map[string]string{root: listing(t, root)[root]}, listing(t, root))
}

// The store may be deleted and made anew under a daemon.
func TestStoreVanishesUnderneath(t *testing.T) {
	root := testenv.Scratch(t)
	s := open(t, local.Options{Root: root})
	chain := storetest.Chain(t, s.Dir(), 2)
	for range 3 {
		add(t, s, chain...)
		if err := testenv.RemoveAll(filepath.Join(root, "nix")); err != nil {
			t.Fatal(err)
		}
		if v, err := s.ValidPaths(t.Context(), []storepath.Path{chain[0].Path()}); err != nil || len(v) != 0 {
			t.Fatalf("after the store was deleted: %v, %v", v, err)
		}
	}
	add(t, s, chain...)
	for _, d := range []string{"var/nix/gcroots", "var/nix/temproots", "store/.links"} {
		if _, err := os.Stat(filepath.Join(root, "nix", d)); err != nil {
			t.Error(err)
		}
	}
}

// What a killed process leaves behind goes with the next opening, and what a
// living one has stays.
func TestLeftovers(t *testing.T) {
	root := testenv.Scratch(t)
	if err := open(t, local.Options{Root: root}).Close(); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(root, "nix/store", gc.TempName, "123-x/1/deep")
	if err := os.MkdirAll(left, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(left), 0o555); err != nil {
		t.Fatal(err)
	}
	s := open(t, local.Options{Root: root})
	if _, err := os.Stat(filepath.Join(root, "nix/store", gc.TempName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the leftovers are still there: %v", err)
	}
	// An upload that hangs while the store is opened again.
	o := storetest.File(t, s.Dir(), "slow", "x")
	r, w := io.Pipe()
	done := make(chan error)
	go func() {
		done <- s.Add(t.Context(), o.Info, r, store.AddOptions{NoCheckSigs: true})
	}()
	if _, err := w.Write(o.NAR[:len(o.NAR)-8]); err != nil {
		t.Fatal(err)
	}
	open(t, local.Options{Root: root})
	if _, err := w.Write(o.NAR[len(o.NAR)-8:]); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("the upload: %v", err)
	}
}

func TestFailedUploadLeavesNothing(t *testing.T) {
	root := testenv.Scratch(t)
	s := open(t, local.Options{Root: root})
	o := storetest.Tree(t, s.Dir(), "tree", map[string]string{"bin/x": "x", "y": "y"})
	dangling := storetest.File(t, s.Dir(), "dangling", "x", storetest.File(t, s.Dir(), "nobody", "n").Path())
	before := names(t, filepath.Join(root, "nix/store"))
	lie := o.Info.Clone()
	lie.NarHash = nixhash.Of(nixhash.SHA256, "lie")
	for what, err := range map[string]error{
		"cut":      s.Add(t.Context(), o.Info, bytes.NewReader(o.NAR[:len(o.NAR)/2]), store.AddOptions{NoCheckSigs: true}),
		"lie":      s.Add(t.Context(), lie, o.Reader(), store.AddOptions{NoCheckSigs: true}),
		"dangling": s.Add(t.Context(), dangling.Info, dangling.Reader(), store.AddOptions{NoCheckSigs: true}),
	} {
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	if after := names(t, filepath.Join(root, "nix/store")); !slices.Equal(before, after) {
		t.Errorf("the store directory has %q, had %q", after, before)
	}
	if after := names(t, filepath.Join(root, "nix/var/nix/temproots")); len(after) != 0 {
		t.Errorf("temporary roots: %q", after)
	}
}

func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestDerivationIsChecked(t *testing.T) {
	s := open(t, local.Options{Root: testenv.Scratch(t)})
	text := func(out string) string {
		return `Derive([("out","` + out + `","","")],[],[],"x86_64-linux","/bin/sh",["-c","true"],[("name","d"),("out","` + out + `")])`
	}
	addText := func(contents string) (*store.PathInfo, error) {
		return s.AddDump(t.Context(), store.Dump{
			Name: "d.drv", Spec: storepath.Spec{Method: storepath.Text, Algorithm: nixhash.SHA256}, Contents: strings.NewReader(contents),
		}, store.AddOptions{})
	}
	_, err := addText(text("/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-d"))
	if err == nil || !strings.Contains(err.Error(), "should be '/nix/store/") {
		t.Fatalf("a derivation that claims another's path: %v", err)
	}
	_, rest, _ := strings.Cut(err.Error(), "should be '")
	right, _, _ := strings.Cut(rest, "'")
	info, err := addText(text(right))
	if err != nil {
		t.Fatal(err)
	}
	outputs, err := s.DerivationOutputs(t.Context(), info.Path)
	if err != nil || s.Dir().Print(outputs["out"]) != right {
		t.Errorf("outputs: %v, %v", outputs, err)
	}
	derivers, err := s.ValidDerivers(t.Context(), outputs["out"])
	if err != nil || !slices.Equal(derivers, []storepath.Path{info.Path}) {
		t.Errorf("derivers: %v, %v", derivers, err)
	}
	if _, err := addText("Derive(broken"); err == nil {
		t.Error("a broken derivation was taken")
	}
}

func TestRoots(t *testing.T) {
	root := testenv.Scratch(t)
	s := open(t, local.Options{Root: root})
	o := storetest.File(t, s.Dir(), "rooted", "x")
	add(t, s, o)
	link := filepath.Join(root, "result")
	if got, err := s.AddPermRoot(t.Context(), o.Path(), link); err != nil || got != link {
		t.Fatalf("%q, %v", got, err)
	}
	roots, err := s.FindRoots(t.Context(), false)
	if err != nil || !slices.Contains(roots[o.Path()], link) {
		t.Errorf("roots: %v, %v", roots, err)
	}
	all := store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit}
	if res, err := s.CollectGarbage(t.Context(), all); err != nil || len(res.Paths) != 0 {
		t.Errorf("with the root: %+v, %v", res, err)
	}
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	if res, err := s.CollectGarbage(t.Context(), all); err != nil || len(res.Paths) != 1 || res.BytesFreed == 0 {
		t.Errorf("without it: %+v, %v", res, err)
	}
	for _, bad := range []string{"relative", "/nix/store/" + o.Path().Base() + "/x", root} {
		if _, err := s.AddPermRoot(t.Context(), o.Path(), bad); err == nil {
			t.Errorf("a root at %q", bad)
		}
	}
}

func TestBuildLogs(t *testing.T) {
	s := open(t, local.Options{Root: testenv.Scratch(t)})
	drv, _ := storepath.ParseBase("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-x.drv")
	if _, err := s.BuildLog(t.Context(), drv); !errors.Is(err, store.ErrNoLog) {
		t.Errorf("no log: %v", err)
	}
	if err := s.AddBuildLog(t.Context(), drv, strings.NewReader("line\n")); err != nil {
		t.Fatal(err)
	}
	r, err := s.BuildLog(t.Context(), drv)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if b, err := io.ReadAll(r); err != nil || string(b) != "line\n" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestVerify(t *testing.T) {
	root := testenv.Scratch(t)
	s := open(t, local.Options{Root: root})
	chain := storetest.Chain(t, s.Dir(), 3)
	add(t, s, chain...)
	check := func(want bool) {
		t.Helper()
		if damaged, err := s.Verify(t.Context(), store.VerifyOptions{CheckContents: true}); err != nil || damaged != want {
			t.Errorf("damaged: %v, %v", damaged, err)
		}
	}
	check(false)
	place := func(i int) string { return filepath.Join(root, "nix/store", chain[i].Path().Base()) }
	if err := os.Chmod(place(0), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(place(0), []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	check(true)
	// Something that nothing needs may disappear; something that is needed may not.
	if err := os.Remove(place(2)); err != nil {
		t.Fatal(err)
	}
	check(true)
	if v, err := s.ValidPaths(t.Context(), []storepath.Path{chain[2].Path()}); err != nil || len(v) != 0 {
		t.Errorf("the one that disappeared: %v, %v", v, err)
	}
	if err := os.Remove(place(0)); err != nil {
		t.Fatal(err)
	}
	check(true)
	if v, err := s.ValidPaths(t.Context(), []storepath.Path{chain[0].Path(), chain[1].Path()}); err != nil || len(v) != 2 {
		t.Errorf("what is needed: %v, %v", v, err)
	}
}

// A damaged object comes back from a store that has it as it was.
func TestRepair(t *testing.T) {
	root, other, wrong := testenv.Scratch(t), testenv.Scratch(t), testenv.Scratch(t)
	chain := storetest.Chain(t, storepath.DefaultDir, 2)
	good, bad := open(t, local.Options{Root: other}), open(t, local.Options{Root: wrong})
	add(t, good, chain...)
	lie := storetest.File(t, storepath.DefaultDir, "chain-0", "another")
	lie.Info.Path, lie.Info.CA = chain[0].Path(), storepath.ContentAddress{}
	add(t, bad, lie)
	sources := map[string]store.Store{"memory://bad": bad.Own(), "memory://good": good.Own()}
	s := open(t, local.Options{
		Root: root, Substituters: []string{"memory://bad", "memory://good"},
		Pool: substitute.NewPool(func(_ context.Context, uri string) (store.Store, error) { return sources[uri], nil }),
	})
	add(t, s, chain...)
	for i, damage := range []func(path string) error{
		os.Remove,
		func(path string) error {
			return errors.Join(os.Chmod(path, 0o644), os.WriteFile(path, []byte("x"), 0o600))
		},
	} {
		if err := damage(filepath.Join(root, "nix/store", chain[0].Path().Base())); err != nil {
			t.Fatal(err)
		}
		if damaged, err := s.Verify(t.Context(), store.VerifyOptions{CheckContents: true, Repair: true}); err != nil || damaged {
			t.Errorf("damage %d: %v, %v", i, damaged, err)
		}
		var b bytes.Buffer
		if err := s.NarFromPath(t.Context(), chain[0].Path(), &b); err != nil || !bytes.Equal(b.Bytes(), chain[0].NAR) {
			t.Errorf("damage %d: after the repair: %v", i, err)
		}
	}
}
