package stack

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/storepath"
)

func TestThreeLowersAndWhatIsAdded(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		a, b, c := object(t, "a"), object(t, "b"), object(t, "c")
		s := w.up(t, w.config(t, w.lower(t, "l1", a), w.lower(t, "l2", a, b), w.lower(t, "l3", c)))
		added := object(t, "added", b.Path())
		addTo(t, s.Store, added)
		for _, o := range []struct {
			where string
			base  string
		}{{"upper/layer", added.Path().Base()}, {"root/nix/store", a.Path().Base()}} {
			if _, err := os.Lstat(filepath.Join(w.path(o.where), o.base)); err != nil {
				t.Error(err)
			}
		}
		has(t, s, a)
		has(t, s, b)
		has(t, s, c)
		has(t, s, added)
		w.takeDown(t, s)
		s = w.up(t, w.config(t, w.path("l1"), w.path("l2"), w.path("l3")))
		has(t, s, added)
		w.takeDown(t, s)
	})
}

// Root's Nix takes a state directory that it may write to for one of its own, and
// would collect the lowers' objects. What clients write themselves must work.
func TestStateShowsReadOnlyButForRootsAndProfiles(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		s := w.up(t, w.config(t, w.lower(t, "base")))
		shown := w.path("root/nix/var/nix")
		if err := unix.Access(shown, unix.R_OK|unix.W_OK); !errors.Is(err, unix.EROFS) {
			t.Errorf("a client would open the store itself: access says %v", err)
		}
		if err := os.WriteFile(filepath.Join(shown, "db/x"), nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("the database can be written to: %v", err)
		}
		for _, dir := range []string{"profiles", "gcroots"} {
			if err := os.Symlink("/nix/store/x", filepath.Join(shown, dir, "made-by-hand")); err != nil {
				t.Error(err)
			}
			if _, err := os.Lstat(filepath.Join(w.path("upper/state"), dir, "made-by-hand")); err != nil {
				t.Errorf("it is not kept in the upper: %v", err)
			}
		}
		// A socket on a read-only mount can be connected to.
		l, err := net.Listen("unix", filepath.Join(w.path("upper/state"), socketInState))
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("unix", filepath.Join(shown, socketInState))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Close(), l.Close()
		w.takeDown(t, s)
	})
}

func TestStateIsNotShownElsewhere(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		c := w.config(t, w.lower(t, "base"))
		c.Root, c.Mount = "", w.path("merged")
		s := w.up(t, c)
		if got := w.mounts(t); !slices.Equal(got, []string{"merged"}) {
			t.Errorf("mounted: %q", got)
		}
		if uri := s.Run().Client; uri != "unix://"+w.path("upper/state/daemon-socket/socket")+"?real="+w.path("merged") {
			t.Errorf("clients are told %s", uri)
		}
		w.takeDown(t, s)
	})
}

func TestImage(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	mkfs := testenv.EROFSMount(t)
	w := newWorld(t)
	a := object(t, "a")
	b := object(t, "b", a.Path())
	if out, err := exec.Command(mkfs, w.path("base.erofs"), w.lower(t, "base", a, b)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c := w.config(t, w.path("base.erofs"), w.lower(t, "plain", object(t, "c")))
	s := w.up(t, c)
	has(t, s, b)
	has(t, s, object(t, "c"))
	if got := w.mounts(t); !slices.Contains(got, "upper/lowers/base") {
		t.Errorf("mounted: %q", got)
	}
	added := object(t, "added", b.Path())
	addTo(t, s.Store, added)
	w.takeDown(t, s)

	// A crash, and the image is replaced meanwhile: the old one must not stay.
	s = w.up(t, c)
	crash(t, s)
	next := w.lower(t, "next", a, b, object(t, "new"))
	if out, err := exec.Command(mkfs, w.path("next.erofs"), next).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Rename(w.path("next.erofs"), w.path("base.erofs")); err != nil {
		t.Fatal(err)
	}
	s = w.up(t, c)
	has(t, s, object(t, "new"))
	has(t, s, added)
	w.takeDown(t, s)
}

// A lower that lies where the stack is mounted stays visible, and is read at its
// own place and not through itself.
func TestLowerUnderTheMount(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		a := object(t, "a")
		c := w.config(t, w.lower(t, "root", a))
		s := w.up(t, c)
		has(t, s, a)
		b := object(t, "b", a.Path())
		addTo(t, s.Store, b)
		if _, err := os.Lstat(filepath.Join(w.path("upper/lowers/root/store"), b.Path().Base())); err == nil {
			t.Error("what was added shows in the lower")
		}
		st := s.Status(t.Context())
		if n := st.Layers[1].Paths; n == nil || n.Number != 1 || len(st.Problems) > 0 {
			t.Errorf("%+v", st)
		}
		crash(t, s)
		s = w.up(t, c)
		has(t, s, b)
		if n := s.Status(t.Context()).Layers[1].Paths; n == nil || n.Number != 1 {
			t.Errorf("after a crash the lower has %+v paths", n)
		}
		w.takeDown(t, s)
		if _, err := os.Lstat(filepath.Join(w.path("root/nix/store"), a.Path().Base())); err != nil {
			t.Error(err)
		}
	})
}

func TestOverlayAsLower(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		a, b := object(t, "a"), object(t, "b")
		below := w.config(t, w.lower(t, "base", a))
		below.Upper.Dir, below.Root = w.path("middle"), w.path("middle-root")
		m := w.up(t, below)
		addTo(t, m.Store, b)
		uri := m.Config.URI() + "&lower-store=" + "local?root=" + w.path("base") + "%26read-only=true"
		s := w.up(t, w.config(t, uri))
		has(t, s, a)
		has(t, s, b)
		if err := s.TakeDown(t.Context(), TakeDownOptions{}); err != nil {
			t.Error(err)
		}
		w.takeDown(t, m)
	})
}

func TestBadLowersAreNamedAndNothingIsDone(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		good := w.lower(t, "good")
		noDB := w.path("no-db")
		if err := os.MkdirAll(filepath.Join(noDB, "nix/store"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(w.path("text"), []byte("no image"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			lower, want string
			absent      bool
		}{
			{w.path("gone"), "lower 'gone' (" + w.path("gone") + "): it does not exist", true},
			{noDB, "it has no database: '" + noDB + "/nix/var/nix/db/db.sqlite' does not exist", true},
			{good + "/nix/store", "the directory that stands before nix/store is meant, '" + good + "'", true},
			{w.path("text"), "not an EROFS or squashfs image", false},
			{good + "?state=nix/elsewhere", "nix/elsewhere/db/db.sqlite' does not exist", true},
			{"unix://" + w.path("socket"), "no daemon answers", true},
			{"ftp://x", "no lower of kind 'ftp'", false},
		} {
			c := w.config(t, good, tt.lower)
			_, err := Assemble(t.Context(), resolved(t, c), parts())
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %v", tt.lower, err)
			}
			var le *LowerError
			if errors.As(err, &le) && le.Absent != tt.absent {
				t.Errorf("%s: absent is %t", tt.lower, le.Absent)
			}
			w.nothingStays(t)
		}
	})
}

func TestUpperAmongALowersObjects(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		base := w.lower(t, "base", object(t, "a"))
		objects := filepath.Join(base, "nix/store")
		if err := os.Symlink(objects, w.path("link")); err != nil {
			t.Fatal(err)
		}
		before, err := os.ReadDir(objects)
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			change    func(*Config)
			key, what string
		}{
			{func(c *Config) { c.Upper.Dir = objects }, "upper.dir", objects},
			{func(c *Config) { c.Upper.Dir = objects + "/not/there" }, "upper.dir", objects + "/not/there"},
			{func(c *Config) { c.Upper.State = w.path("link/state") }, "upper.state", w.path("link/state")},
		} {
			c := w.config(t, base)
			tt.change(&c)
			_, err := Assemble(t.Context(), resolved(t, c), parts())
			var ce *ConfigError
			if !errors.As(err, &ce) || ce.Key != tt.key || !strings.Contains(ce.Why, "'"+tt.what+"' lies among the objects of lower 'base'") {
				t.Errorf("%s: %v", tt.what, err)
			}
			if entries, err := os.ReadDir(objects); err != nil || len(entries) != len(before) {
				t.Errorf("%s: the lower has %v, %v", tt.what, entries, err)
			}
		}
		// Beside them it may lie.
		c := w.config(t, base)
		c.Upper.Dir = filepath.Join(base, "upper")
		s := w.up(t, c)
		w.takeDown(t, s)
	})
}

func TestOtherStoreDirectory(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		c := w.config(t, "local?root="+w.lower(t, "base")+"&store=/other/store")
		_, err := Assemble(t.Context(), resolved(t, c), parts())
		if !errors.Is(err, ErrLower) || !strings.Contains(err.Error(), "'/other/store'") {
			t.Errorf("%v", err)
		}
		w.nothingStays(t)
	})
}

func TestWaitsForLowers(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		a := object(t, "a")
		w.lower(t, "made", a)
		c := w.config(t, w.path("base"))
		c.WaitForLowers = time.Minute
		go func() {
			// It comes in steps, as when a file system is mounted on a directory.
			_ = os.Mkdir(w.path("base"), 0o755)
			_ = os.Rename(w.path("made/nix"), w.path("base/nix"))
		}()
		s := w.up(t, c)
		has(t, s, a)
		w.takeDown(t, s)

		c = w.config(t, w.path("never"))
		c.WaitForLowers = time.Millisecond
		if _, err := Assemble(t.Context(), resolved(t, c), parts()); err == nil || !strings.Contains(err.Error(), "after 1ms: it does not exist") {
			t.Errorf("%v", err)
		}
		w.nothingStays(t)
	})
}

func TestOneStackPerUpper(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		c := w.config(t, w.lower(t, "base"))
		s := w.up(t, c)
		c.Root = w.path("other-root")
		_, err := Assemble(t.Context(), resolved(t, c), parts())
		var in *InUseError
		if !errors.As(err, &in) || len(in.By) != 1 {
			t.Errorf("%v", err)
		}
		w.takeDown(t, s)
	})
}

func TestOneStackPerName(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		c := w.config(t, w.lower(t, "base"))
		s := w.up(t, c)
		c.Name, c.Upper.Dir, c.Root = "upper", w.path("other"), w.path("other-root")
		o, err := Assemble(t.Context(), resolved(t, c), parts())
		if err != nil {
			t.Fatal(err)
		}
		if err := o.Announce(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "give this one another name") {
			t.Errorf("%v", err)
		}
		if err := o.TakeDown(t.Context(), TakeDownOptions{}); err != nil {
			t.Error(err)
		}
		w.takeDown(t, s)
	})
}

func TestNothingIsHiddenUnasked(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		c := w.config(t, w.lower(t, "base"))
		if err := errors.Join(os.MkdirAll(w.path("root/nix/store/.links"), 0o755), os.Mkdir(w.path("root/nix/store/precious"), 0o755)); err != nil {
			t.Fatal(err)
		}
		_, err := Assemble(t.Context(), resolved(t, c), parts())
		var ce *CoverError
		if !errors.As(err, &ce) || ce.Holds != "precious" {
			t.Errorf("%v", err)
		}
		w.nothingStays(t)
		c.Cover = true
		w.takeDown(t, w.up(t, c))
		if _, err := os.Lstat(w.path("root/nix/store/precious")); err != nil {
			t.Error(err)
		}
	})
}

func TestBusyMountNamesItsUsers(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		c := w.config(t, w.lower(t, "base", object(t, "a")))
		s := w.up(t, c)
		user := exec.Command("sleep", "1000")
		user.Dir = s.Config.Mount
		if err := user.Start(); err != nil {
			t.Fatal(err)
		}
		end := func() { _, _ = user.Process.Kill(), user.Wait() }
		defer end()
		err := s.TakeDown(t.Context(), TakeDownOptions{})
		var busy *overlayfs.BusyError
		if !errors.As(err, &busy) || len(busy.Holders) == 0 || busy.Holders[0].PID != user.Process.Pid {
			t.Fatalf("%v", err)
		}
		r, err := FindUpper(w.path("upper"))
		if err != nil {
			t.Fatal(err)
		}
		st := r.Status(t.Context())
		if st.State != StateDown || !st.Mounted || len(st.Problems) != 1 {
			t.Errorf("%+v", st)
		}
		// Lazily it goes, but then its upper must not be mounted again.
		if err := Down(t.Context(), r, DownOptions{Lazy: true}); err != nil {
			t.Fatal(err)
		}
		if left := w.mounts(t); len(left) > 0 {
			t.Errorf("still mounted: %q", left)
		}
		var in *InUseError
		if _, err := Assemble(t.Context(), resolved(t, c), parts()); !errors.As(err, &in) || !strings.Contains(err.Error(), "sleep") {
			t.Errorf("%v", err)
		}
		end()
		w.takeDown(t, w.up(t, c))
	})
}

func TestStatusSeesWhatIsWrong(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		s := w.up(t, w.config(t, w.lower(t, "base", object(t, "a"))))
		addTo(t, s.Store, object(t, "b"))
		r, err := Find("upper")
		if err != nil {
			t.Fatal(err)
		}
		st := r.Status(t.Context())
		if st.State != StateUp || !st.Mounted || len(st.Problems) > 0 {
			t.Errorf("%+v", st)
		}
		up, low := st.Layers[0], st.Layers[1]
		if *up.Paths != (Count{1, true}) || *up.Objects != (Count{1, true}) || *up.NarBytes == 0 || *low.Paths != (Count{1, true}) {
			t.Errorf("%+v %+v", up, low)
		}
		if err := os.Rename(w.path("base/nix/store"), w.path("base/nix/moved")); err != nil {
			t.Fatal(err)
		}
		if st = r.Status(t.Context()); len(st.Problems) == 0 || !strings.Contains(strings.Join(st.Problems, "\n"), "base") {
			t.Errorf("a lower is gone: %q", st.Problems)
		}
		if err := os.Rename(w.path("base/nix/moved"), w.path("base/nix/store")); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", s.Config.Mount, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		if st = r.Status(t.Context()); st.Mounted || len(st.Problems) == 0 {
			t.Errorf("something is mounted over the store: %+v", st)
		}
		if err := unix.Unmount(s.Config.Mount, 0); err != nil {
			t.Fatal(err)
		}
		w.takeDown(t, s)
		if _, err := Find("upper"); !errors.Is(err, ErrNotUp) {
			t.Errorf("%v", err)
		}
	})
}

func TestStorePathsAreOfTheStoreDirectory(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		dir := storepath.Dir(w.path("x/store"))
		c := w.config(t, w.lower(t, "base"))
		c.StoreDir, c.Root = dir, ""
		s := w.up(t, c)
		if s.Config.Mount != string(dir) || s.Store.Dir() != dir || s.Config.ShowState != No {
			t.Errorf("%+v", s.Config)
		}
		w.takeDown(t, s)
	})
}

func TestReplacedLowerIsNoticed(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		s := w.up(t, w.config(t, w.lower(t, "base")))
		if err := os.Rename(w.path("base"), w.path("former")); err != nil {
			t.Fatal(err)
		}
		w.lower(t, "base")
		if st := s.Status(t.Context()); len(st.Problems) != 1 || !strings.Contains(st.Problems[0], "lower 'base' was replaced") {
			t.Errorf("%q", st.Problems)
		}
		w.takeDown(t, s)
	})
}

// Whoever brings a stack up may keep his own files from others; the store is for
// all.
func TestStrictUmask(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		base := w.lower(t, "base")
		defer unix.Umask(unix.Umask(0o077))
		s := w.up(t, w.config(t, base))
		for _, dir := range []string{"root", "root/nix", "root/nix/store", "root/nix/var/nix", "upper/state/daemon-socket", "root/nix/var/nix/profiles"} {
			if st, err := os.Stat(w.path(dir)); err != nil || st.Mode().Perm()&0o055 != 0o055 {
				t.Errorf("%s: %v, %v", dir, st.Mode(), err)
			}
		}
		w.takeDown(t, s)
	})
}

func TestImageNeedsRoot(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{User: true}) {
		return
	}
	mkfs := testenv.EROFS(t)
	w := newWorld(t)
	if out, err := exec.Command(mkfs, w.path("base.erofs"), w.lower(t, "base")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, err := Assemble(t.Context(), resolved(t, w.config(t, w.path("base.erofs"))), parts())
	if !errors.Is(err, ErrLower) || !strings.Contains(err.Error(), "needs root") {
		t.Errorf("%v", err)
	}
	w.nothingStays(t)
}
