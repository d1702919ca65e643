package merge_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/merge"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

const dir = storepath.DefaultDir

// layer makes a store below a directory of objects and of path infos whose objects are
// in another store.
func layer(t *testing.T, take merge.Take, objects []storetest.Object, rows ...storetest.Object) merge.Layer {
	t.Helper()
	return layerAt(t, filepath.Join(testenv.Scratch(t), "layer"), take, objects, rows...)
}

func layerAt(t *testing.T, root string, take merge.Take, objects []storetest.Object, rows ...storetest.Object) merge.Layer {
	t.Helper()
	s := open(t, local.Options{Root: root})
	for _, o := range append(slices.Clone(rows), objects...) {
		if err := s.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{NoCheckSigs: true}); err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range rows {
		if _, err := nar.RemoveTree(t.Context(), filepath.Join(s.RealDir(), o.Path().Base())); err != nil {
			t.Fatal(err)
		}
	}
	return merge.Layer{Name: "layer of " + names(objects), Store: s, Dir: s.RealDir(), Take: take}
}

func names(objects []storetest.Object) string {
	var out []string
	for _, o := range objects {
		out = append(out, o.Path().Name())
	}
	return strings.Join(out, ",")
}

func open(t *testing.T, o local.Options) *local.Store {
	t.Helper()
	s, err := local.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func file(t *testing.T, name string, refs ...storetest.Object) storetest.Object {
	t.Helper()
	var paths []storepath.Path
	for _, r := range refs {
		paths = append(paths, r.Path())
	}
	return storetest.File(t, dir, name, "contents of "+name, paths...)
}

func plan(t *testing.T, o merge.Options, layers ...merge.Layer) *merge.Plan {
	t.Helper()
	p, err := merge.MakePlan(t.Context(), layers, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func planned(p *merge.Plan) string {
	var out []string
	p.Each(func(path storepath.Path, _ string) { out = append(out, path.Name()) })
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestWhatGetsIn(t *testing.T) {
	a, b := file(t, "a"), file(t, "b")
	c := file(t, "c", a)
	d := file(t, "d", c)
	e := file(t, "e")
	list := func(o ...storetest.Object) []storetest.Object { return o }
	upper := func(take merge.Take) merge.Layer { return layer(t, take, list(d, e), a, c) }
	lower := func(take merge.Take) merge.Layer { return layer(t, take, list(a, b, c)) }
	for name, tt := range map[string]struct {
		layers  []merge.Layer
		roots   []storepath.Path
		want    string
		leaning int
		missing int
	}{
		"upper over its lower":  {[]merge.Layer{upper(merge.All), lower(merge.Infos)}, nil, "d e", 2, 0},
		"upper alone":           {[]merge.Layer{upper(merge.All)}, nil, "d e", 2, 2},
		"with what it needs":    {[]merge.Layer{upper(merge.All), lower(merge.Referred)}, nil, "a c d e", 0, 0},
		"everything":            {[]merge.Layer{upper(merge.All), lower(merge.All)}, nil, "a b c d e", 0, 0},
		"closure of a path":     {[]merge.Layer{upper(merge.All), lower(merge.All)}, []storepath.Path{d.Path()}, "a c d", 0, 0},
		"path of the upper":     {[]merge.Layer{upper(merge.All), lower(merge.Infos)}, []storepath.Path{e.Path()}, "e", 0, 0},
		"no path at all":        {[]merge.Layer{upper(merge.All), lower(merge.All)}, []storepath.Path{}, "", 0, 0},
		"two that are the same": {[]merge.Layer{lower(merge.All), lower(merge.All)}, nil, "a b c", 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := plan(t, merge.Options{Roots: tt.roots}, tt.layers...)
			if got := planned(p); got != tt.want || p.Leaning != tt.leaning || len(p.Missing) != tt.missing {
				t.Errorf("%q, leaning on %d, missing %v", got, p.Leaning, p.Missing)
			}
			target := filepath.Join(testenv.Scratch(t), "made")
			if _, err := p.WriteDirectory(t.Context(), target, merge.WriteOptions{}); err != nil {
				t.Fatal(err)
			}
			same(t, p, target, tt.layers)
		})
	}
	if _, err := merge.MakePlan(t.Context(), []merge.Layer{lower(merge.All)}, merge.Options{Roots: []storepath.Path{e.Path()}}); !errors.Is(err, store.ErrNotValid) {
		t.Errorf("a root that is nowhere: %v", err)
	}
}

// same opens what was made as a store, and compares it with the layers.
func same(t *testing.T, p *merge.Plan, root string, layers []merge.Layer) {
	t.Helper()
	s := open(t, local.Options{Root: root, ReadOnly: true})
	var have []string
	entries, err := os.ReadDir(s.RealDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != ".links" {
			have = append(have, e.Name())
		}
	}
	var want []string
	p.Each(func(path storepath.Path, from string) {
		want = append(want, path.Base())
		i := slices.IndexFunc(layers, func(l merge.Layer) bool { return l.Name == from })
		same, err := store.PathInfoOf(t.Context(), layers[i].Store, path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := store.PathInfoOf(t.Context(), s, path)
		if err != nil {
			t.Fatal(err)
		}
		want := same.Clone()
		if want.Registered = 1; !equalInfos(got, want) {
			t.Errorf("%+v, want %+v", got, want)
		}
		canonical(t, filepath.Join(s.RealDir(), path.Base()))
		h := nixhash.SHA256.New()
		if err := nar.Dump(t.Context(), h, filepath.Join(s.RealDir(), path.Base())); err != nil || nixhash.Sum(nixhash.SHA256, h) != got.NarHash {
			t.Errorf("%s has other contents: %v", path.Base(), err)
		}
	})
	if !slices.Equal(have, want) {
		t.Errorf("objects %q, want %q", have, want)
	}
	n := 0
	for _, err := range s.AllPaths(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != p.Objects+p.Leaning {
		t.Errorf("%d rows, want %d and %d", n, p.Objects, p.Leaning)
	}
	if damage, err := s.DB().Check(t.Context(), nixdb.Thorough); err != nil || len(damage) > 0 {
		t.Errorf("%v, %v", damage, err)
	}
	left, err := os.ReadDir(filepath.Join(root, "nix/var/nix/db"))
	if err != nil || len(left) != 2 {
		t.Errorf("beside the database: %v, %v", left, err)
	}
}

func equalInfos(a, b *store.PathInfo) bool {
	return a.Path == b.Path && a.NarHash == b.NarHash && a.NarSize == b.NarSize && slices.Equal(a.References, b.References) &&
		a.Deriver == b.Deriver && a.CA == b.CA && a.Registered == b.Registered && a.Ultimate == b.Ultimate && len(a.Signatures) == len(b.Signatures)
}

// canonical fails unless a tree has the metadata that everything in a store has.
func canonical(t *testing.T, path string) {
	t.Helper()
	err := filepath.WalkDir(path, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		perm := fi.Mode().Perm()
		ok := perm == 0o444 || perm == 0o555
		switch fi.Mode().Type() {
		case fs.ModeDir:
			ok = perm == 0o555
		case fs.ModeSymlink:
			ok = true
		}
		if !ok || fi.ModTime().Unix() != 1 {
			t.Errorf("%s: mode %v, time %v", path, fi.Mode(), fi.ModTime())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// A path that layers have with different contents is told, and the first one's is
// planned.
func TestConflicts(t *testing.T) {
	a := file(t, "a")
	other := storetest.File(t, dir, "x", "other contents")
	other.Info.Path = a.Path() // input-addressed, and built again
	other.Info.CA = storepath.ContentAddress{}
	plain := a.Plain(t, dir, false)
	first, second := layer(t, merge.All, []storetest.Object{plain}), layer(t, merge.All, []storetest.Object{other})
	if plain.Path() != a.Path() {
		other.Info.Path = plain.Path()
		second = layer(t, merge.All, []storetest.Object{other})
	}
	first.Name, second.Name = "first", "second"
	p := plan(t, merge.Options{}, first, second)
	if len(p.Conflicts) != 1 || p.Conflicts[0].First != "first" || p.Conflicts[0].Other != "second" || p.Objects != 1 {
		t.Fatalf("%+v", p.Conflicts)
	}
	second.Take = merge.Infos
	if p := plan(t, merge.Options{}, first, second); len(p.Conflicts) != 0 {
		t.Errorf("of a layer that takes no part: %+v", p.Conflicts)
	}
}

func tree(t *testing.T, name string) storetest.Object {
	t.Helper()
	files := map[string]string{"bin/run": "#!/bin/sh\n", "share/a": "same", "share/b": "same", "lib/big": strings.Repeat("large", 100000)}
	return storetest.Tree(t, dir, name, files)
}

// Files that are one in a layer are one in what is made of it, and never share an
// inode with it.
func TestHardLinksStay(t *testing.T) {
	o, o2 := tree(t, "tree"), tree(t, "tree-2")
	l := layer(t, merge.All, []storetest.Object{o, o2})
	if err := l.Store.(*local.Store).Optimise(t.Context()); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(testenv.Scratch(t), "made")
	if _, err := plan(t, merge.Options{}, l).WriteDirectory(t.Context(), target, merge.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	inode := func(root string, o storetest.Object, file string) *syscall.Stat_t {
		fi, err := os.Lstat(filepath.Join(root, o.Path().Base(), file))
		if err != nil {
			t.Fatal(err)
		}
		return fi.Sys().(*syscall.Stat_t)
	}
	made := filepath.Join(target, "nix/store")
	a, b := inode(made, o, "share/a"), inode(made, o2, "share/b")
	if a.Ino != b.Ino || a.Nlink != 4 {
		t.Errorf("inodes %d and %d with %d links", a.Ino, b.Ino, a.Nlink)
	}
	if was := inode(l.Dir, o, "share/a"); was.Ino == a.Ino && was.Dev == a.Dev {
		t.Error("the inode is that of the layer")
	}
}

// What is damaged gets nowhere, and nothing stays of the attempt.
func TestDamagedObjectIsNoPartOfAnything(t *testing.T) {
	l := layer(t, merge.All, []storetest.Object{file(t, "a"), tree(t, "tree"), file(t, "z")})
	big := filepath.Join(l.Dir, tree(t, "tree").Path().Base(), "lib/big")
	if err := errors.Join(os.Chmod(big, 0o644), os.Truncate(big, 499999), os.Chmod(big, 0o444)); err != nil {
		t.Fatal(err)
	}
	p := plan(t, merge.Options{}, l)
	scratch := testenv.Scratch(t)
	_, dirErr := p.WriteDirectory(t.Context(), filepath.Join(scratch, "made"), merge.WriteOptions{})
	_, imgErr := p.WriteImage(t.Context(), filepath.Join(scratch, "made.erofs"), merge.WriteOptions{})
	for _, err := range []error{dirErr, imgErr} {
		var he *store.HashMismatchError
		if !errors.As(err, &he) || !strings.Contains(err.Error(), "layer of a,tree,z") {
			t.Errorf("%v", err)
		}
	}
	// One that has vanished.
	if _, err := nar.RemoveTree(t.Context(), filepath.Join(l.Dir, file(t, "z").Path().Base())); err != nil {
		t.Fatal(err)
	}
	if _, err := p.WriteDirectory(t.Context(), filepath.Join(scratch, "made"), merge.WriteOptions{}); err == nil {
		t.Error("an object is gone, and nobody said so")
	}
	if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestTargets(t *testing.T) {
	p := plan(t, merge.Options{}, layer(t, merge.All, []storetest.Object{file(t, "a")}))
	scratch := testenv.Scratch(t)
	target := filepath.Join(scratch, "made")
	write := map[string]func(context.Context, string, merge.WriteOptions) (merge.Result, error){"directory": p.WriteDirectory, "image": p.WriteImage}
	for kind, f := range write {
		if err := os.WriteFile(target, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := f(t.Context(), target, merge.WriteOptions{}); !errors.Is(err, merge.ErrExists) {
			t.Errorf("%s: %v", kind, err)
		}
		if text, _ := os.ReadFile(target); string(text) != "mine" {
			t.Errorf("%s: it was changed", kind)
		}
		if _, err := f(t.Context(), filepath.Join(scratch, "no/such"), merge.WriteOptions{}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", kind, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := f(ctx, filepath.Join(scratch, "other"), merge.WriteOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", kind, err)
		}
	}
	if _, err := p.WriteImage(t.Context(), target, merge.WriteOptions{Replace: true}); err != nil {
		t.Error(err)
	}
	// What a killed run left is taken away; what another one is about is not.
	work := filepath.Join(scratch, ".new.strata-new")
	if err := os.MkdirAll(filepath.Join(work, "root/nix"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := p.WriteDirectory(t.Context(), filepath.Join(scratch, "new"), merge.WriteOptions{}); err != nil {
		t.Error(err)
	}
	if err := os.Mkdir(filepath.Join(scratch, ".newer.strata-new"), 0o755); err != nil {
		t.Fatal(err)
	}
	held, err := os.Open(filepath.Join(scratch, ".newer.strata-new"))
	if err != nil || unix.Flock(int(held.Fd()), unix.LOCK_EX) != nil {
		t.Fatal(err)
	}
	if _, err := p.WriteImage(t.Context(), filepath.Join(scratch, "newer"), merge.WriteOptions{}); !errors.Is(err, merge.ErrBusy) {
		t.Errorf("%v", err)
	}
	_ = held.Close()
	if _, err := p.WriteImage(t.Context(), filepath.Join(scratch, "newer"), merge.WriteOptions{}); err != nil {
		t.Error(err)
	}
	entries, _ := os.ReadDir(scratch)
	var have []string
	for _, e := range entries {
		have = append(have, e.Name())
	}
	if want := []string{"made", "new", "newer"}; !slices.Equal(have, want) {
		t.Errorf("there are %q", have)
	}
}

// An image depends on what is in it, and not on where that came from.
func TestImagesAreReproducible(t *testing.T) {
	a, tr := file(t, "a"), tree(t, "tree")
	b := file(t, "b", a, tr)
	one := plan(t, merge.Options{}, layer(t, merge.All, []storetest.Object{a, tr, b}))
	two := plan(t, merge.Options{}, layer(t, merge.All, []storetest.Object{a}, tr), layer(t, merge.All, []storetest.Object{tr, a, b}))
	scratch := testenv.Scratch(t)
	var images []string
	for i, p := range []*merge.Plan{one, two} {
		path := filepath.Join(scratch, string(rune('a'+i)))
		res, err := p.WriteImage(t.Context(), path, merge.WriteOptions{})
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil || int64(len(text)) != res.Size {
			t.Fatalf("%d bytes, %v", res.Size, err)
		}
		images = append(images, string(text))
	}
	if images[0] != images[1] {
		t.Error("the same contents give different images")
	}
}

func TestImageIsALower(t *testing.T) {
	testenv.EROFSMount(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	a, tr := file(t, "a"), tree(t, "tree")
	layers := []merge.Layer{layer(t, merge.All, []storetest.Object{file(t, "b", a, tr)}, a, tr), layer(t, merge.All, []storetest.Object{a, tr, file(t, "unused")})}
	p := plan(t, merge.Options{}, layers...)
	scratch := testenv.Scratch(t)
	img, at := filepath.Join(scratch, "img"), filepath.Join(scratch, "at")
	if _, err := p.WriteImage(t.Context(), img, merge.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	testenv.MountEROFS(t, img, at)
	defer func() { _ = unix.Unmount(at, unix.MNT_DETACH) }()
	same(t, p, at, layers)
	if fsck, err := exec.LookPath("fsck.erofs"); err == nil {
		if out, err := exec.Command(fsck, img).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
}
