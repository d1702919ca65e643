package gc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// dir is a store directory that no other process speaks of: a collection looks at all there are, and
// another run of these tests may be among them.
var dir = storepath.Dir(fmt.Sprintf("/gc-test-%d/store", os.Getpid()))

// path makes a store path of a one-letter name.
func path(name string) storepath.Path {
	p, err := storepath.ParseBase(strings.Repeat(string("0123456789abcdfghijklmnpqrsvwxyz"[name[0]%32]), 32) + "-" + name)
	if err != nil {
		panic(err)
	}
	return p
}

// fake is a store of names: "a" refers to the names in refs["a"]. Its objects are files
// of one size.
type fake struct {
	names   []string
	refs    map[string]string
	valid   map[string]bool
	dir     string // of the objects
	state   string
	onValid func(names []string)
}

func newFake(t *testing.T, edges ...string) *fake {
	f := &fake{refs: map[string]string{}, valid: map[string]bool{}, dir: t.TempDir(), state: t.TempDir()}
	for _, e := range edges {
		name, refs, _ := strings.Cut(e, ">")
		f.names = append(f.names, name)
		f.refs[name], f.valid[name] = refs, true
		f.object(t, path(name).Base())
	}
	for _, d := range []string{"gcroots/auto", "profiles", "temproots"} {
		if err := os.MkdirAll(filepath.Join(f.state, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// object makes an entry of the store directory.
func (f *fake) object(t *testing.T, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), make([]byte, 1000), 0o444); err != nil {
		t.Fatal(err)
	}
}

// size is what one object takes of the disk.
func (f *fake) size(t *testing.T) uint64 {
	t.Helper()
	f.object(t, "sample")
	defer os.Remove(filepath.Join(f.dir, "sample"))
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(f.dir, "sample"), &st); err != nil {
		t.Fatal(err)
	}
	return uint64(st.Blocks) * 512
}

// files lists the store directory.
func (f *fake) files(t *testing.T) string {
	t.Helper()
	list, err := os.ReadDir(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func (f *fake) Len() int                  { return len(f.names) }
func (f *fake) Path(i int) storepath.Path { return path(f.names[i]) }
func (f *fake) NarSize(i int) uint64      { return uint64(i) }
func (f *fake) Row(i int) int64           { return int64(-i) }
func (f *fake) Find(p storepath.Path) int { return slices.Index(f.names, p.Name()) }
func (f *fake) FindBases(names [][]byte, numbers []int32) {
	for i, name := range names {
		numbers[i] = int32(slices.IndexFunc(f.names, func(n string) bool { return path(n).Base() == string(name) }))
	}
}
func (f *fake) References(i int) (r []int32) {
	for _, c := range f.refs[f.names[i]] {
		r = append(r, int32(slices.Index(f.names, string(c))))
	}
	return r
}

func (f *fake) parts() Parts {
	return Parts{
		Dir: dir, StateDir: f.state, RealDir: f.dir, Deletable: f.dir, Links: ".links",
		Graph: func(context.Context, bool) (Graph, Keeps, error) { return f, nil, nil },
		Invalidate: func(_ context.Context, paths []storepath.Path) ([]storepath.Path, error) {
			var names []string
			for _, p := range paths {
				names = append(names, p.Name())
			}
			if f.onValid != nil {
				f.onValid(names)
			}
			for _, n := range names {
				delete(f.valid, n)
			}
			for n := range f.valid {
				for _, gone := range names {
					if strings.Contains(f.refs[n], gone) {
						return nil, fmt.Errorf("%s was deleted under %s", gone, n)
					}
				}
			}
			return nil, nil
		},
		Claim: func(name string) (func(), bool) { return func() {}, name != "tmp-busy" },
	}
}

func (f *fake) link(t *testing.T, where, name string) {
	t.Helper()
	if err := os.Symlink(dir.Print(path(name))+"/bin", filepath.Join(f.state, where)); err != nil {
		t.Fatal(err)
	}
}

func (f *fake) left() string { return left(f.valid) }

func left(m map[string]bool) string {
	var out []string
	for n := range m {
		out = append(out, n)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestDeleteDead(t *testing.T) {
	f := newFake(t, "a>bc", "b>c", "c>c", "d>b", "e>de", "x>")
	f.link(t, "gcroots/r", "b")
	// Never registered, or of nobody.
	for _, name := range []string{"garbage", "tmp-busy", "tmp-idle", ".nfs1", path("z").Base(), path("b").Base() + ".lock"} {
		f.object(t, name)
	}
	size := f.size(t)
	res, err := Collect(t.Context(), f.parts(), store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit})
	if err != nil {
		t.Fatal(err)
	}
	if got := f.left(); got != "b c" {
		t.Errorf("valid: %s", got)
	}
	if got, want := f.files(t), strings.Join([]string{path("b").Base(), path("c").Base(), "tmp-busy", ".nfs1"}, " "); !sameWords(got, want) {
		t.Errorf("files: %s", got)
	}
	if res.BytesFreed != 8*size || len(res.Paths) != 8 {
		t.Errorf("result: %+v", res)
	}
}

func sameWords(a, b string) bool {
	x, y := strings.Fields(a), strings.Fields(b)
	slices.Sort(x)
	slices.Sort(y)
	return slices.Equal(x, y)
}

func TestReports(t *testing.T) {
	f := newFake(t, "a>b", "b>", "c>")
	f.link(t, "profiles/p", "a")
	live, err := Collect(t.Context(), f.parts(), store.GCOptions{Action: store.ReturnLive})
	if err != nil || !slices.Equal(live.Paths, []string{dir.Print(path("a")), dir.Print(path("b"))}) {
		t.Errorf("live: %v, %v", live, err)
	}
	dead, err := Collect(t.Context(), f.parts(), store.GCOptions{Action: store.ReturnDead, MaxFreed: store.NoLimit})
	if err != nil || !slices.Equal(dead.Paths, []string{dir.Print(path("c"))}) || f.left() != "a b c" {
		t.Errorf("dead: %v, %v, left %s", dead, err, f.left())
	}
}

func TestMaxFreed(t *testing.T) {
	f := newFake(t, "a>", "b>", "c>", "d>")
	size := f.size(t)
	res, err := Collect(t.Context(), f.parts(), store.GCOptions{Action: store.DeleteDead, MaxFreed: size + 1})
	if err != nil || res.BytesFreed != 2*size || len(f.valid) != 2 {
		t.Errorf("%+v, %v, left %s", res, err, f.left())
	}
}

func TestDeleteSpecific(t *testing.T) {
	for _, c := range []struct{ delete, root, left, alive string }{
		{delete: "a", left: "b c", alive: ""},
		{delete: "b", left: "a b c", alive: "b"},
		{delete: "ab", left: "c", alive: ""},
		{delete: "ba", left: "c", alive: ""},
		{delete: "ab", root: "a", left: "a b c", alive: "a"},
		{delete: "cb", root: "a", left: "a b", alive: "b"},
	} {
		f := newFake(t, "a>b", "b>", "c>")
		if c.root != "" {
			f.link(t, "gcroots/r", c.root)
		}
		var paths []storepath.Path
		for _, n := range c.delete {
			paths = append(paths, path(string(n)))
		}
		_, err := Collect(t.Context(), f.parts(), store.GCOptions{Action: store.DeleteSpecific, Paths: paths})
		if f.left() != c.left {
			t.Errorf("%+v: left %s", c, f.left())
		}
		var alive *AliveError
		if errors.As(err, &alive) != (c.alive != "") || alive != nil && alive.Path != dir.Print(path(c.alive)) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// A client that asks for a path during a collection gets an answer, and then
// the path is either safe with all that it refers to, or gone.
func TestRootsDuringCollection(t *testing.T) {
	for _, below := range []string{"", strings.Repeat("a-directory/", 12)} { // its socket has a longer path than sockets have
		f := newFake(t, "a>b", "b>", "c>d", "d>")
		if f.state = filepath.Join(f.state, below); os.MkdirAll(filepath.Join(f.state, "temproots"), 0o755) != nil {
			t.Fatal("no state directory")
		}
		temp := NewTempRootsFile(f.state, "1", dir)
		p := f.parts()
		p.Graph = func(ctx context.Context, _ bool) (Graph, Keeps, error) {
			// gc.lock is held and the temporary roots are read.
			return f, nil, temp.Add(ctx, []storepath.Path{path("a")})
		}
		if _, err := Collect(t.Context(), p, store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit}); err != nil {
			t.Fatal(err)
		}
		if f.left() != "a b" {
			t.Errorf("left: %s", f.left())
		}
		if _, err := os.Lstat(socketPath(f.state)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket: %v", err)
		}
		if err := temp.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Whoever makes a lasting root of what is temporarily one, and is done then, keeps it at whatever
// moment of a collection that is.
func TestRootBecomesALastingOne(t *testing.T) {
	f := newFake(t, "a>b", "b>", "c>")
	temp := NewTempRootsFile(f.state, "1", dir)
	defer func() { _ = temp.Close() }()
	if err := temp.Add(t.Context(), []storepath.Path{path("a")}); err != nil {
		t.Fatal(err)
	}
	p := f.parts()
	p.MoreRoots = func(context.Context) (store.Roots, error) {
		// The links have been read.
		f.link(t, "gcroots/a", "a")
		return nil, temp.Close()
	}
	if _, err := Collect(t.Context(), p, deleteAll); err != nil || f.left() != "a b" {
		t.Errorf("left: %s, %v", f.left(), err)
	}
}

func TestRootOfWhatIsBeingDeletedWaits(t *testing.T) {
	f := newFake(t, "a>")
	temp := NewTempRootsFile(f.state, "1", dir)
	defer func() { _ = temp.Close() }()
	answered := make(chan error, 1)
	removed := false
	p := f.parts()
	f.onValid = func([]string) {
		go func() { answered <- temp.Add(t.Context(), []storepath.Path{path("a")}) }()
	}
	p.Aside = func(_ context.Context, moves []Move) {
		select {
		case err := <-answered:
			t.Errorf("answered before the path was gone: %v", err)
		default:
		}
		removed = true
		for i := range moves {
			moves[i].Err = Rename(f.dir, &moves[i])
		}
	}
	if _, err := Collect(t.Context(), p, store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit}); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil || !removed {
		t.Errorf("answer %v, removed %v", err, removed)
	}
}

func TestTempRoots(t *testing.T) {
	f := newFake(t, "a>b", "b>", "c>")
	temp := NewTempRootsFile(f.state, fmt.Sprintf("%d.1", os.Getpid()), dir)
	if err := temp.Add(t.Context(), []storepath.Path{path("a")}); err != nil {
		t.Fatal(err)
	}
	roots, err := ReadTempRoots(t.Context(), filepath.Join(f.state, "temproots"), dir)
	want := fmt.Sprintf("{temp:%d}", os.Getpid())
	if err != nil || len(roots) != 1 || !slices.Equal(roots[path("a")], []string{want}) {
		t.Errorf("roots: %v, %v", roots, err)
	}
	all := store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit}
	if _, err := Collect(t.Context(), f.parts(), all); err != nil || f.left() != "a b" {
		t.Errorf("with the root: %s, %v", f.left(), err)
	}
	_ = temp.Close()
	if _, err := Collect(t.Context(), f.parts(), all); err != nil || f.left() != "" {
		t.Errorf("without it: %s, %v", f.left(), err)
	}
	// A file left by a process that died.
	stale := filepath.Join(f.state, "temproots", "77")
	if err := os.WriteFile(stale, []byte(dir.Print(path("a"))+"\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	if roots, err := ReadTempRoots(t.Context(), filepath.Join(f.state, "temproots"), dir); err != nil || len(roots) != 0 {
		t.Errorf("of a dead process: %v, %v", roots, err)
	}
	if _, err := os.Stat(stale); err == nil {
		t.Error("the stale file is still there")
	}
}

func TestLinkRoots(t *testing.T) {
	f := newFake(t)
	out := t.TempDir()
	f.link(t, "gcroots/direct", "a")
	link := func(target, name string) {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(f.state, "gcroots/auto", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(dir.Print(path("b")), filepath.Join(out, "result")); err != nil {
		t.Fatal(err)
	}
	link(filepath.Join(out, "result"), "indirect")
	link(filepath.Join(out, "gone"), "stale")
	link(out, "nolink")
	link("self", "self")
	link("self/below", "loop")
	link(strings.Repeat("x", 4000), "long")
	if err := os.WriteFile(filepath.Join(f.state, "gcroots", path("c").Base()), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	roots, err := LinkRoots(t.Context(), f.state, dir)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"a": filepath.Join(f.state, "gcroots/direct"), "b": filepath.Join(out, "result"), "c": filepath.Join(f.state, "gcroots", path("c").Base())}
	if len(roots) != len(want) {
		t.Errorf("roots: %v", roots)
	}
	for n, l := range want {
		if !slices.Equal(roots[path(n)], []string{l}) {
			t.Errorf("%s: %v", n, roots[path(n)])
		}
	}
	if _, err := os.Lstat(filepath.Join(f.state, "gcroots/auto/stale")); err == nil {
		t.Error("the stale link is still there")
	}
	for _, name := range []string{"loop", "long"} { // somebody may mend them
		if _, err := os.Lstat(filepath.Join(f.state, "gcroots/auto", name)); err != nil {
			t.Error(err)
		}
	}
}

func TestProcessRoots(t *testing.T) {
	// A /proc of our own making, since the real one is busy.
	proc := t.TempDir()
	for name, text := range map[string]string{
		"7/environ": "PATH=" + dir.Print(path("a")) + "/bin:" + dir.Print(path("b")) + "\x00X=/nix/store/short\x00",
		"7/maps":    "7f00-7f01 r-xp 00000000 00:00 1   " + dir.Print(path("c")) + "/lib/x.so\n",
		"8/environ": "",
		"9/environ": "X=/merged/store/" + path("f").Base() + "/bin\x00Y=/unmerged/store/" + path("h").Base() + "\x00",
	} {
		if err := os.MkdirAll(filepath.Join(proc, filepath.Dir(name), "fd"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(proc, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"7/exe": dir.Print(path("d")) + "/bin/d (deleted)", "8/cwd": "/root", "8/fd/3": dir.Print(path("e")),
		"9/exe": "/merged/store/" + path("g").Base() + "/bin/g", "9/cwd": "/other/store/" + path("h").Base()} {
		if err := os.Symlink(target, filepath.Join(proc, link)); err != nil {
			t.Fatal(err)
		}
	}
	roots, err := ProcessRoots(t.Context(), proc, dir, "/merged/store", string(dir))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for p := range roots {
		got[p.Name()] = true
	}
	if left(got) != "a b c d e f g" {
		t.Errorf("roots: %v", roots)
	}
}

// Of a root that may not be read the operator is warned: what it keeps is deleted.
func TestUnreadableRoot(t *testing.T) {
	for err, want := range map[error]int{fs.ErrPermission: 1, fs.ErrNotExist: 0, unix.ENOTDIR: 0} {
		var said testenv.Lines
		s := linkScan{ctx: activity.With(t.Context(), &said)}
		if err := s.passOver("/home/u/result", err); err != nil {
			t.Error(err)
		}
		if got := said.UpTo(activity.Warn); len(got) != want || want > 0 && !strings.Contains(got[0], "'/home/u/result'") {
			t.Errorf("%v: %q", err, got)
		}
	}
	s := linkScan{ctx: t.Context()}
	if err := s.passOver("/home/u/result", unix.EIO); !errors.Is(err, unix.EIO) {
		t.Errorf("a disk error: %v", err)
	}
}
