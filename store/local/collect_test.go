package local_test

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

var deleteAll = store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit}

// used is what the files below a directory take of the disk.
func used(t *testing.T, dir string) uint64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return (st.Blocks - st.Bfree) * uint64(st.Bsize)
}

// What is said to be freed is what the file system has more of afterwards, and what a dry
// run said before.
func TestFreedBytesAreThoseOfTheDisk(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	dir := testenv.Scratch(t)
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=256m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	s, err := local.Open(t.Context(), local.Options{Root: dir, State: testenv.Scratch(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range 40 {
		files := map[string]string{"own": strings.Repeat(fmt.Sprint(i), 5000), "same": strings.Repeat("x", 50_000), "pair": strings.Repeat(fmt.Sprint(i/2), 9000)}
		add(t, s, storetest.Tree(t, s.Dir(), fmt.Sprint("tree-", i), files))
	}
	if err := s.Optimise(t.Context()); err != nil {
		t.Fatal(err)
	}
	said, err := s.CollectGarbage(t.Context(), store.GCOptions{Action: store.ReturnDead, MaxFreed: store.NoLimit, Measure: true})
	if err != nil {
		t.Fatal(err)
	}
	sum := uint64(0)
	for _, limit := range []uint64{1, 100_000, store.NoLimit} {
		before := used(t, dir)
		res, err := s.CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteDead, MaxFreed: limit})
		if err != nil {
			t.Fatal(err)
		}
		if got := before - used(t, dir); got != res.BytesFreed {
			t.Errorf("limit %d: %d bytes freed, %d said", limit, got, res.BytesFreed)
		}
		if limit < store.NoLimit && (res.BytesFreed <= limit || res.BytesFreed > limit+300_000 || len(res.Paths) == 40) {
			t.Errorf("limit %d: %d bytes freed, of %d paths", limit, res.BytesFreed, len(res.Paths))
		}
		sum += res.BytesFreed
	}
	if sum != said.BytesFreed {
		t.Errorf("%d bytes freed, the dry run said %d", sum, said.BytesFreed)
	}
	clean(t, s)
}

// A path that is deleted and added at the same moment, by processes that know nothing of
// each other, is valid in the end, with its contents.
func TestAddingWhatIsBeingDeleted(t *testing.T) {
	root := testenv.Scratch(t)
	s, other := open(t, local.Options{Root: root}), open(t, local.Options{Root: root})
	var objects []storetest.Object
	for i := range 30 {
		objects = append(objects, storetest.Tree(t, s.Dir(), fmt.Sprint("o", i), map[string]string{"bin/x": fmt.Sprint(i), "y": "y"}))
	}
	for round := range 5 {
		add(t, s, objects...)
		var wg sync.WaitGroup
		roots := other.NewTempRoots()
		wg.Go(func() {
			if _, err := s.CollectGarbage(t.Context(), deleteAll); err != nil {
				t.Error(err)
			}
		})
		for _, o := range objects {
			if err := other.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{NoCheckSigs: true, Roots: roots}); err != nil {
				t.Errorf("round %d: %v", round, err)
			}
		}
		wg.Wait()
		for _, o := range objects {
			var b bytes.Buffer
			if err := other.NarFromPath(t.Context(), o.Path(), &b); err != nil || !bytes.Equal(b.Bytes(), o.NAR) {
				t.Errorf("round %d: %s has %d bytes, %v", round, o.Path(), b.Len(), err)
			}
		}
		if err := roots.Close(); err != nil {
			t.Fatal(err)
		}
	}
	clean(t, s)
}

// While a large collection runs, a stock process adds and gets what it added.
func TestStockAddsDuringALargeCollection(t *testing.T) {
	testenv.Long(t)
	nix := testenv.Nix(t, "2.34")
	s := open(t, local.Options{Root: nix.Dir})
	for i := range 10 {
		var batch []storetest.Object
		for k := range 300 {
			batch = append(batch, storetest.File(t, s.Dir(), fmt.Sprint("f", i, "-", k), "x"))
		}
		if err := s.AddMultiple(t.Context(), &storetest.Source{Objects: batch}, store.AddOptions{NoCheckSigs: true}); err != nil {
			t.Fatal(err)
		}
	}
	file := nix.WriteFile(t, "src", "contents")
	done := make(chan error, 1)
	go func() {
		_, err := s.CollectGarbage(t.Context(), deleteAll)
		done <- err
	}()
	added := nix.Run(t, "nix-store", "--add-root", filepath.Join(nix.Dir, "root"), "--indirect", "--add", file)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	nix.Run(t, "nix-store", "--verify", "--check-contents")
	p, err := s.Dir().Parse(added)
	if err != nil {
		p, err = s.Dir().Parse(nix.Run(t, "readlink", added))
	}
	if v, verr := s.ValidPaths(t.Context(), []storepath.Path{p}); err != nil || verr != nil || len(v) != 1 {
		t.Errorf("%s: %v, %v, %v", added, v, err, verr)
	}
}

// A stock daemon builds in the store that we collect: its clients keep what they have roots for, and nobody
// is in the way of anybody else for good. (Its own collections miss roots that become lasting ones meanwhile.)
func TestCollectingBesideAStockDaemon(t *testing.T) {
	testenv.Long(t)
	nix := testenv.Nix(t, "2.34")
	s := open(t, local.Options{Root: nix.Dir})
	client := nix.WithRemote(nix.Daemon(t))
	const rounds = 5
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	end := sync.OnceFunc(func() { stop(); wg.Wait() })
	defer end()
	collected := 0
	wg.Go(func() {
		for ctx.Err() == nil {
			if _, err := s.CollectGarbage(t.Context(), deleteAll); err != nil {
				t.Errorf("our collection: %v", err)
				return
			}
			collected++
		}
	})
	for i := range rounds {
		name := fmt.Sprint("kept-", i)
		text := fmt.Sprintf("contents of %d", i)
		// The root is there before the client lets go of what it has added.
		client.Run(t, "nix-build", "--out-link", filepath.Join(nix.Dir, name), "--expr",
			fmt.Sprintf(`derivation { name = "%s"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo -n %s > $out" ]; }`, name, text))
	}
	end()
	if _, err := s.CollectGarbage(t.Context(), deleteAll); err != nil {
		t.Error(err)
	}
	for i := range rounds {
		link := filepath.Join(nix.Dir, fmt.Sprint("kept-", i))
		if got := nix.Run(t, "cat", link); got != fmt.Sprintf("contents of %d", i) {
			t.Errorf("%s has %q", link, got)
		}
	}
	if collected == 0 {
		t.Error("nothing was collected meanwhile")
	}
	nix.Run(t, "nix-store", "--verify", "--check-contents")
	clean(t, s)
}
