package pivot_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/pivot"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

const dir = storepath.DefaultDir

// world is a directory with lowers and an upper in it. Nothing is mounted: what an overlay
// would write is written directly.
type world struct {
	t     *testing.T
	dir   string
	links store.Roots
	inUse store.Roots
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: testenv.Scratch(t), links: store.Roots{}, inUse: store.Roots{}}
	for _, d := range []string{"layer", "work", "state/db", "state/gcroots"} {
		if err := os.MkdirAll(w.path(d), 0o755); err != nil {
			w.t.Fatal(err)
		}
	}
	return w
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// lower makes a lower store with objects, closed under references.
func (w *world) lower(name string, objects ...storetest.Object) {
	w.t.Helper()
	s, err := local.Open(w.t.Context(), local.Options{Root: w.path(name)})
	if err != nil {
		w.t.Fatal(err)
	}
	defer s.Close()
	for _, o := range objects {
		if err := s.Add(w.t.Context(), o.Info, o.Reader(), store.AddOptions{NoCheckSigs: true}); err != nil {
			w.t.Fatalf("%s: %v", o.Path(), err)
		}
	}
}

// openLowers opens lowers for as long as the test lasts.
func (w *world) openLowers(names ...string) (out []pivot.Lower) {
	w.t.Helper()
	for _, name := range names {
		s, err := local.Open(w.t.Context(), local.Options{Root: w.path(name), ReadOnly: true})
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() { _ = s.Close() })
		out = append(out, pivot.Lower{Name: name, Store: s, Dir: s.RealDir()})
	}
	return out
}

func (w *world) openDB() *nixdb.DB {
	w.t.Helper()
	db, err := nixdb.Open(w.t.Context(), w.path("state/db"), nixdb.Options{Dir: dir})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = db.Close() })
	return db
}

// rows registers what has no object in the upper.
func (w *world) rows(objects ...storetest.Object) {
	w.t.Helper()
	db := w.openDB()
	var regs []nixdb.Registration
	for _, o := range objects {
		regs = append(regs, nixdb.Registration{Info: o.Info})
	}
	if err := db.Register(w.t.Context(), regs); err != nil {
		w.t.Fatal(err)
	}
}

// unpack puts an object into the layer, as OverlayFS would.
func (w *world) unpack(o storetest.Object, opaque bool) {
	w.t.Helper()
	path := w.inLayer(o)
	if _, err := nar.Restore(w.t.Context(), o.Reader(), path, nar.RestoreOptions{}); err != nil {
		w.t.Fatal(err)
	}
	if st, err := os.Lstat(path); opaque && err == nil && st.IsDir() {
		w.setxattr(path, "opaque", "y")
	}
}

func (w *world) inLayer(o storetest.Object) string {
	return filepath.Join(w.path("layer"), o.Path().Base())
}

// setxattr sets a mark of OverlayFS.
func (w *world) setxattr(path, mark, value string) {
	w.t.Helper()
	st, err := os.Lstat(path)
	if err == nil {
		err = os.Chmod(path, 0o755)
	}
	if err == nil {
		err = unix.Lsetxattr(path, w.prefix()+mark, []byte(value), 0)
	}
	if err == nil {
		err = os.Chmod(path, st.Mode().Perm())
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) prefix() string {
	if os.Geteuid() == 0 {
		return "trusted.overlay."
	}
	return "user.overlay."
}

// own adds objects of the upper.
func (w *world) own(objects ...storetest.Object) {
	w.t.Helper()
	w.rows(objects...)
	for _, o := range objects {
		w.unpack(o, true)
	}
}

// root makes a gc root.
func (w *world) root(name string, p storepath.Path) string {
	w.t.Helper()
	link := w.path("state/gcroots/" + name)
	if err := os.Symlink(dir.Print(p), link); err != nil {
		w.t.Fatal(err)
	}
	w.links[p] = append(w.links[p], link)
	return link
}

// whiteout makes a whiteout of a name in the layer, in the form that takes no privileges
// in an ordinary directory.
func (w *world) whiteout(name string) {
	w.t.Helper()
	layer := w.path("layer")
	if os.Geteuid() == 0 {
		if err := unix.Mknod(filepath.Join(layer, name), unix.S_IFCHR, 0); err != nil {
			w.t.Fatal(err)
		}
		return
	}
	if err := os.WriteFile(filepath.Join(layer, name), nil, 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.setxattr(filepath.Join(layer, name), "whiteout", "y")
	w.setxattr(layer, "opaque", "x")
}

func (w *world) parts(old, new []pivot.Lower) pivot.Parts {
	return pivot.Parts{
		Dir: dir, DB: w.openDB(), Layer: w.path("layer"), Work: w.path("work"), UserXattr: os.Geteuid() != 0,
		Stage: w.path("stage"), Journal: w.path("pivot.journal"), StateDir: w.path("state"), Old: old, New: new,
		Roots: func(context.Context) (pivot.Roots, error) { return pivot.Roots{Links: w.links, InUse: w.inUse}, nil },
	}
}

func mustPlan(t *testing.T, parts pivot.Parts, o pivot.Options) *pivot.Plan {
	t.Helper()
	p, err := pivot.Make(t.Context(), parts, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// run makes and executes a plan.
func run(t *testing.T, parts pivot.Parts, o pivot.Options) *pivot.Plan {
	t.Helper()
	p := mustPlan(t, parts, o)
	if err := execute(t.Context(), parts, p); err != nil {
		t.Fatal(err)
	}
	return p
}

func execute(ctx context.Context, parts pivot.Parts, p *pivot.Plan) error {
	job, err := pivot.Begin(ctx, parts, p, "target")
	if err == nil {
		err = goOn(ctx, job)
	}
	return err
}

func goOn(ctx context.Context, job *pivot.Job) error {
	for _, step := range []func(context.Context) error{job.Stage, job.Commit, job.Finish} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// holds says what the layer holds: names of objects, sorted.
func (w *world) holds() (names []string) {
	w.t.Helper()
	entries, err := os.ReadDir(w.path("layer"))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		if p, err := storepath.ParseBase(e.Name()); err == nil {
			names = append(names, p.Name())
		} else {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names
}

func (w *world) wantHolds(names ...string) {
	w.t.Helper()
	if got := w.holds(); !slices.Equal(got, names) {
		w.t.Errorf("the layer holds %q, want %q", got, names)
	}
}

// wantRows says which rows there are, by name.
func (w *world) wantRows(names ...string) {
	w.t.Helper()
	var got []string
	for p, err := range w.openDB().AllPaths(w.t.Context()) {
		if err != nil {
			w.t.Fatal(err)
		}
		got = append(got, p.Name())
	}
	if slices.Sort(got); !slices.Equal(got, names) {
		w.t.Errorf("the database has %q, want %q", got, names)
	}
}

// sound sees that everything valid is readable with its hash over these lowers, that nothing
// is hidden, and that nothing lies about.
func (w *world) sound(lowers []pivot.Lower) {
	w.t.Helper()
	db := w.openDB()
	damages, err := db.Check(w.t.Context(), nixdb.Thorough)
	if err != nil || len(damages) > 0 {
		w.t.Errorf("database: %v, %v", damages, err)
	}
	for info, err := range db.AllPathInfos(w.t.Context()) {
		if err != nil {
			w.t.Fatal(err)
		}
		if got := w.hash(info.Path.Base(), lowers); got != info.NarHash {
			w.t.Errorf("%s has the hash %s, want %s", info.Path, got, info.NarHash)
		}
	}
	for _, l := range lowers {
		for p, err := range l.Store.(store.Lister).AllPaths(w.t.Context()) {
			if err != nil {
				w.t.Fatal(err)
			}
			path := filepath.Join(w.path("layer"), p.Base())
			if white, err := overlayfs.IsWhiteout(path); white {
				w.t.Errorf("a whiteout hides %s: %v", p, err)
			}
			if valid, err := db.ValidPaths(w.t.Context(), []storepath.Path{p}); err != nil || len(valid) == 0 {
				if _, err := os.Lstat(path); err == nil {
					w.t.Errorf("something that is not valid hides %s", p)
				}
			}
		}
	}
	w.nothingLiesAbout()
}

func (w *world) nothingLiesAbout() {
	w.t.Helper()
	for _, name := range []string{"stage", "pivot.journal"} {
		if _, err := os.Lstat(w.path(name)); !errors.Is(err, fs.ErrNotExist) {
			w.t.Errorf("%s is still there: %v", name, err)
		}
	}
}

// hash reads an object as the overlay would show it.
func (w *world) hash(name string, lowers []pivot.Lower) nixhash.Hash {
	w.t.Helper()
	places := []string{w.path("layer")}
	for _, l := range lowers {
		places = append(places, l.Dir)
	}
	for i, place := range places {
		path := filepath.Join(place, name)
		st, err := os.Lstat(path)
		if err != nil {
			continue
		}
		if opaque, _ := overlayfs.IsOpaque(path); i == 0 && st.IsDir() && !opaque {
			for _, below := range places[1:] {
				if _, err := os.Lstat(filepath.Join(below, name)); err == nil {
					w.t.Errorf("%s would be merged", name)
				}
			}
		}
		var b bytes.Buffer
		if err := nar.Dump(context.Background(), &b, path); err != nil {
			w.t.Error(err)
		}
		return nixhash.Of(nixhash.SHA256, b.String())
	}
	return nixhash.Hash{}
}

// file and tree make objects; other gives the same path other contents.
func file(t *testing.T, name string, refs ...storetest.Object) storetest.Object {
	return storetest.File(t, dir, name, "contents of "+name+strings.Join(names(refs), " "), paths(refs)...).Plain(t, dir, false)
}

func tree(t *testing.T, name string, refs ...storetest.Object) storetest.Object {
	return storetest.Tree(t, dir, name, map[string]string{"bin/" + name: "program", "share/doc": "text " + name}, paths(refs)...).Plain(t, dir, false)
}

func other(t *testing.T, o storetest.Object, refs ...storetest.Object) storetest.Object {
	x := storetest.Tree(t, dir, o.Path().Name(), map[string]string{"other": "contents"}, paths(refs)...)
	info := x.Info.Clone()
	info.Path, info.CA = o.Path(), storepath.ContentAddress{}
	return storetest.Object{Info: info, NAR: x.NAR}
}

func paths(objects []storetest.Object) (out []storepath.Path) {
	for _, o := range objects {
		out = append(out, o.Path())
	}
	return out
}

func names(objects []storetest.Object) (out []string) {
	for _, o := range objects {
		out = append(out, o.Path().Base())
	}
	return out
}
