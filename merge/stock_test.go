package merge_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/merge"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store/storetest"
)

// Stock Nix finds a directory in order, and reads it and an image without writing.
func TestStockNixReadsIt(t *testing.T) {
	nix := testenv.Nix(t, "2.34")
	nix.Configure(t, "experimental-features = nix-command read-only-local-store")
	a, tr := file(t, "a"), tree(t, "tree")
	b := file(t, "b", a, tr)
	p := plan(t, merge.Options{}, layer(t, merge.All, []storetest.Object{b}, a, tr), layer(t, merge.All, []storetest.Object{a, tr}))
	made := filepath.Join(nix.Dir, "made")
	if _, err := p.WriteDirectory(t.Context(), made, merge.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	path := dir.Print(b.Path())
	reads := func(root string) {
		t.Helper()
		uri := "local?root=" + root + "&read-only=true"
		if got := strings.Fields(nix.Run(t, "nix-store", "--store", uri, "--query", "--requisites", path)); len(got) != 3 {
			t.Errorf("requisites: %q", got)
		}
		if hash := strings.TrimSpace(nix.Run(t, "nix-store", "--store", uri, "--query", "--hash", path)); hash != b.Info.NarHash.Text(nixhash.Nix32) {
			t.Errorf("hash %s, want %s", hash, b.Info.NarHash.Text(nixhash.Nix32))
		}
		if text := nix.Run(t, "nix", "--store", uri, "store", "cat", dir.Print(tr.Path())+"/bin/run"); strings.TrimSpace(text) != "#!/bin/sh" {
			t.Errorf("contents %q", text)
		}
	}
	reads(made)
	nix.Run(t, "nix-store", "--store", "local?root="+made, "--verify", "--check-contents")
	t.Run("image", func(t *testing.T) {
		testenv.EROFSMount(t)
		img, at := filepath.Join(nix.Dir, "img"), filepath.Join(nix.Dir, "at")
		if _, err := p.WriteImage(t.Context(), img, merge.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(at, 0o755); err != nil {
			t.Fatal(err)
		}
		testenv.MountEROFS(t, img, at)
		defer func() { _ = unix.Unmount(at, unix.MNT_DETACH) }()
		reads(at)
	})
}

// Between two places of a file system that can, contents are not copied.
func TestContentsAreShared(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	root := testenv.FileSystem(t, "btrfs")
	l := layerAt(t, filepath.Join(root, "layer"), merge.All, []storetest.Object{tree(t, "tree")})
	res, err := plan(t, merge.Options{}, l).WriteDirectory(t.Context(), filepath.Join(root, "made"), merge.WriteOptions{})
	if err != nil || res.Shared < 500000 {
		t.Errorf("%+v, %v", res, err)
	}
	same(t, plan(t, merge.Options{}, l), filepath.Join(root, "made"), []merge.Layer{l})
}
