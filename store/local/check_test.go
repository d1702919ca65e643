package local_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/strata-nix/strata/check"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/substitute"
	"github.com/strata-nix/strata/trust"
)

// checked is a store with a few objects that is about to be damaged, and a cache that has
// some of them.
type checked struct {
	root  string
	state string
	chain []storetest.Object // each refers to the one before
	tree  storetest.Object
	alone storetest.Object // nothing refers to it, and no cache has it
	key   trust.SecretKey
	o     local.Options
}

func newChecked(t *testing.T, root string) *checked {
	t.Helper()
	w := &checked{root: root, state: filepath.Join(root, "nix/var/nix"), chain: storetest.Chain(t, storepath.DefaultDir, 3)}
	w.tree = storetest.Tree(t, storepath.DefaultDir, "tree", map[string]string{"bin/x": "x", "share/y": "y"}, w.chain[0].Path())
	w.alone = storetest.File(t, storepath.DefaultDir, "alone", "z")
	var err error
	if w.key, err = trust.GenerateKey("test-1"); err != nil {
		t.Fatal(err)
	}
	cache := open(t, local.Options{Root: testenv.Scratch(t)})
	add(t, cache, append(slices.Clone(w.chain), w.tree)...)
	w.o = local.Options{
		Root: root, TrustedKeys: trust.Keys{}.WithSecret(w.key), Substituters: []string{"memory://cache"},
		Pool: substitute.NewPool(func(context.Context, string) (store.Store, error) { return cache.Own(), nil }),
	}
	s, err := local.Open(t.Context(), w.o)
	if err != nil {
		t.Fatal(err)
	}
	add(t, s, append(slices.Clone(w.chain), w.tree, w.alone)...)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *checked) place(o storetest.Object) string {
	return filepath.Join(w.root, "nix/store", o.Path().Base())
}

func (w *checked) file(name string) string { return filepath.Join(w.root, "nix/store", name) }

// sql damages the database.
func (w *checked) sql(t *testing.T, script string) {
	t.Helper()
	c, err := sqlite.OpenConn(filepath.Join(w.state, "db/db.sqlite"))
	if err == nil {
		err = errors.Join(sqlitex.ExecuteScript(c, script, nil), c.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (w *checked) run(t *testing.T, o check.Options) *check.Report {
	t.Helper()
	s := open(t, w.o)
	r, err := s.Check(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range r.Errors {
		t.Errorf("could not look: %v", err)
	}
	return r
}

// codes are those of what was found, each once.
func codes(r *check.Report) (out []check.Code) {
	for _, c := range r.Counts {
		out = append(out, c.Class.Code)
	}
	slices.Sort(out)
	return out
}

func left(r *check.Report) int {
	damage, disorder := r.Left()
	return damage + disorder
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// write puts a file in place, whatever is there and may be written to.
func write(t *testing.T, path, contents string) {
	t.Helper()
	_ = os.Chmod(filepath.Dir(path), 0o755)
	_ = os.Remove(path)
	must(t, os.WriteFile(path, []byte(contents), 0o444))
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{{Sec: 1}, {Sec: 1}}, unix.AT_SYMLINK_NOFOLLOW))
}

const otherPath = "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-other"

// damages are the ways in which a plain store can be out of order.
var damages = []struct {
	name     string
	code     check.Code
	contents bool // found only with them
	drop     bool // mended only by giving something up
	do       func(t *testing.T, w *checked)
	more     []check.Code // that come with it
}{
	{name: "row of a file that nothing needs", code: check.RowWithoutObject, do: func(t *testing.T, w *checked) { must(t, os.Remove(w.place(w.alone))) }},
	{name: "row of a file that is needed", code: check.RowWithoutObject, do: func(t *testing.T, w *checked) { must(t, os.Remove(w.place(w.chain[0]))) }},
	{name: "rows of everything", code: check.RowWithoutObject, do: func(t *testing.T, w *checked) {
		for _, o := range w.chain {
			must(t, testenv.RemoveAll(w.place(o)))
		}
		must(t, testenv.RemoveAll(w.place(w.tree)))
	}},
	{name: "modified file", code: check.ObjectModified, contents: true, do: func(t *testing.T, w *checked) { write(t, w.place(w.chain[0]), "bad") }},
	{name: "modified tree", code: check.ObjectModified, contents: true, do: func(t *testing.T, w *checked) {
		write(t, filepath.Join(w.place(w.tree), "bin/x"), "bad")
		must(t, os.Chmod(filepath.Join(w.place(w.tree), "bin"), 0o555),
			os.Chtimes(filepath.Join(w.place(w.tree), "bin"), time.Unix(1, 0), time.Unix(1, 0)))
	}},
	{name: "nobody has it", code: check.ObjectModified, contents: true, drop: true, do: func(t *testing.T, w *checked) { write(t, w.place(w.alone), "bad") }},
	{name: "socket in a tree", code: check.ObjectUnreadable, contents: true, do: func(t *testing.T, w *checked) {
		dir := filepath.Join(w.place(w.tree), "bin")
		must(t, os.Chmod(dir, 0o755), unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600), os.Chmod(dir, 0o555), os.Chtimes(dir, time.Unix(1, 0), time.Unix(1, 0)))
	}},
	{name: "size", code: check.SizeWrong, contents: true, do: func(t *testing.T, w *checked) {
		w.sql(t, "update ValidPaths set narSize = 17 where path like '%alone'")
	}},
	{name: "no size", code: check.SizeWrong, contents: true, do: func(t *testing.T, w *checked) { w.sql(t, "update ValidPaths set narSize = null") }},
	{name: "mode", code: check.MetadataWrong, contents: true, do: func(t *testing.T, w *checked) { must(t, os.Chmod(w.place(w.alone), 0o644)) }},
	{name: "times in a tree", code: check.MetadataWrong, contents: true, do: func(t *testing.T, w *checked) {
		now := time.Now()
		must(t, os.Chtimes(filepath.Join(w.place(w.tree), "bin/x"), now, now), os.Chtimes(w.place(w.tree), now, now))
	}},
	{name: "signature", code: check.SignatureBad, contents: true, do: func(t *testing.T, w *checked) {
		w.sql(t, "update ValidPaths set sigs = 'test-1:"+strings.Repeat("A", 86)+"== other:AAAA' where path like '%alone'")
	}},
	{name: "link", code: check.LinkModified, contents: true, do: func(t *testing.T, w *checked) {
		write(t, w.file(".links/"+strings.Repeat("0", 52)), "bad")
	}},
	{name: "object", code: check.ObjectWithoutRow, do: func(t *testing.T, w *checked) { write(t, w.file(otherPath), "stray") }},
	{name: "tree", code: check.ObjectWithoutRow, do: func(t *testing.T, w *checked) { must(t, os.MkdirAll(w.file(otherPath)+"/a/b", 0o755)) }},
	{name: "foreign file", code: check.ForeignFile, do: func(t *testing.T, w *checked) { write(t, w.file("README"), "hello") }},
	{name: "hostile names", code: check.ForeignFile, do: func(t *testing.T, w *checked) {
		for _, name := range []string{"\xff\xfe", "a\nb", "\x1b[31mred", "-rf", strings.Repeat("x", 255), otherPath + "\n", " "} {
			write(t, w.file(name), "")
		}
	}},
	{name: "temporary directory", code: check.LeftoverTemporary, do: func(t *testing.T, w *checked) {
		must(t, os.MkdirAll(w.file("tmp-1234-5/x"), 0o700), os.Chtimes(w.file("tmp-1234-5"), time.Unix(1, 0), time.Unix(1, 0)))
	}},
	{name: "temporary link", code: check.LeftoverTemporary, do: func(t *testing.T, w *checked) { write(t, w.file(".tmp-link-1-2"), "") }},
	{name: "build directory", code: check.LeftoverTemporary, do: func(t *testing.T, w *checked) {
		must(t, os.MkdirAll(w.file(otherPath+".chroot/root"), 0o700), os.Chtimes(w.file(otherPath+".chroot"), time.Unix(1, 0), time.Unix(1, 0)))
	}},
	{name: "lock file", code: check.LockLeft, do: func(t *testing.T, w *checked) { write(t, w.file(otherPath+".lock"), "") }},
	{name: "temporary roots", code: check.TemporaryRootsOfDead, do: func(t *testing.T, w *checked) { write(t, filepath.Join(w.state, "temproots/4711"), "") }},
	{name: "gc.lock is a directory", code: check.LockBroken, do: func(t *testing.T, w *checked) {
		_ = os.Remove(filepath.Join(w.state, "gc.lock"))
		must(t, os.Mkdir(filepath.Join(w.state, "gc.lock"), 0o755))
	}},
	{name: "gc.lock is a link", code: check.LockBroken, do: func(t *testing.T, w *checked) {
		_ = os.Remove(filepath.Join(w.state, "gc.lock"))
		must(t, os.Symlink("/dev/null", filepath.Join(w.state, "gc.lock")))
	}},
	{name: "mode of gc.lock", code: check.LockBroken, do: func(t *testing.T, w *checked) {
		write(t, filepath.Join(w.state, "gc.lock"), "")
	}},
	{name: "indirect root", code: check.RootDangling, do: func(t *testing.T, w *checked) {
		must(t, os.MkdirAll(filepath.Join(w.state, "gcroots/auto"), 0o755), os.Symlink(filepath.Join(w.root, "gone"), filepath.Join(w.state, "gcroots/auto/x")))
	}},
	{name: "root of nothing", code: check.RootDangling, drop: true, do: func(t *testing.T, w *checked) {
		must(t, os.Symlink("/nix/store/"+otherPath, filepath.Join(w.state, "gcroots/x")))
	}},
	{name: "no index", code: check.DatabaseIndex, do: func(t *testing.T, w *checked) { w.sql(t, "drop index IndexReferrer; drop trigger DeleteSelfRefs") }},
	{name: "other index", code: check.DatabaseIndex, do: func(t *testing.T, w *checked) {
		w.sql(t, "drop index IndexReference; create index IndexReference on Refs(referrer)")
	}},
	{name: "deriver that cannot be read", code: check.DatabaseRow, do: func(t *testing.T, w *checked) {
		w.sql(t, "update ValidPaths set deriver = '/x', sigs = 'nocolon', ca = 'y' where path like '%alone'")
	}},
	{name: "hash that cannot be read", code: check.DatabaseRow, drop: true, do: func(t *testing.T, w *checked) { w.sql(t, "update ValidPaths set hash = 'x' where path like '%alone'") }},
	{name: "path that cannot be read", code: check.DatabaseRow, do: func(t *testing.T, w *checked) {
		w.sql(t, "insert into ValidPaths (path, hash, registrationTime) values ('/etc/passwd', 'sha256:00', 1)")
	}},
	{name: "reference to nothing", code: check.ReferenceDangling, do: func(t *testing.T, w *checked) {
		w.sql(t, "pragma foreign_keys = 0; update Refs set reference = 4711 where reference = (select id from ValidPaths where path like '%chain-0') and referrer = (select id from ValidPaths where path like '%tree')")
	}},
	{name: "reference of nothing", code: check.ReferenceDangling, do: func(t *testing.T, w *checked) {
		w.sql(t, "pragma foreign_keys = 0; insert into Refs values (4711, 1); insert into DerivationOutputs values (4712, 'out', '/nix/store/"+otherPath+"')")
	}},
	{name: "mode of the database", code: check.DatabaseFiles, do: func(t *testing.T, w *checked) {
		if os.Geteuid() != 0 {
			testenv.Skip(t, "for others than root this is a database that cannot be opened")
		}
		must(t, os.Chmod(filepath.Join(w.state, "db/db.sqlite"), 0o400))
	}},
}

// Each damage is found with its code and no other, told and not touched without a repair,
// and gone after one.
func TestCheckFindsAndMends(t *testing.T) {
	for i, d := range damages {
		if testing.Short() && i%8 != 0 {
			continue // a sample, where everything takes ten times as long
		}
		t.Run(d.name, func(t *testing.T) {
			w := newChecked(t, testenv.Scratch(t))
			if got := codes(w.run(t, check.Options{Contents: true})); len(got) > 0 {
				t.Fatalf("before anything was damaged: %q", got)
			}
			d.do(t, w)
			if d.contents {
				if got := codes(w.run(t, check.Options{})); len(got) > 0 {
					t.Errorf("without contents: %q", got)
				}
			}
			o := check.Options{Contents: d.contents}
			for range 2 { // the first look has changed nothing
				r := w.run(t, o)
				if got := codes(r); !slices.Equal(got, []check.Code{d.code}) {
					t.Fatalf("found %q: %+v", got, sentences(r))
				}
			}
			o.Repair = true
			if d.drop {
				if r := w.run(t, o); left(r) == 0 {
					t.Fatal("what nobody has was repaired without giving it up")
				}
				o.Drop = true
			}
			if r := w.run(t, o); left(r) != 0 {
				t.Errorf("after the repair: %v", sentences(r))
			}
			if r := w.run(t, check.Options{Contents: true}); left(r) != 0 {
				t.Errorf("the second check: %v", sentences(r))
			}
		})
	}
}

func sentences(r *check.Report) (out []string) {
	for _, f := range r.Findings {
		text := string(f.Outcome) + ": " + f.Sentence()
		if f.Err != nil {
			text += ": " + f.Err.Error()
		}
		out = append(out, text)
	}
	return out
}
