package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/lease"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/overlay"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// optIn makes the place of roots in a lower, as its owner does.
func (w *world) optIn(t *testing.T, lower string) string {
	t.Helper()
	dir := filepath.Join(lower, stateInRoot, rootsDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// tree lists everything below a directory, with what it is.
func tree(t *testing.T, dir string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			out = append(out, path+" "+e.Type().String())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// rootsIn are what a consumer has registered.
func rootsIn(t *testing.T, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err == nil && to == "/nix/store/"+e.Name() {
			out = append(out, e.Name())
		}
	}
	return out
}

// collected runs a garbage collection of a plain store, and tells which of some
// objects are left.
func collected(t *testing.T, o local.Options, objects ...storetest.Object) (left []string) {
	t.Helper()
	s := openStore(t, o)
	if _, err := s.CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit}); err != nil {
		t.Fatal(err)
	}
	for _, obj := range objects {
		if valid, err := s.ValidPaths(t.Context(), []storepath.Path{obj.Path()}); err != nil || len(valid) > 0 {
			left = append(left, obj.Path().Name())
		}
	}
	return left
}

// What the upper leans on is a root of the lower before it does, and no longer when it
// does not any more; of a lower whose owner has not opted in nothing changes.
func TestRootsReachDown(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		dep := object(t, "dep")
		used := object(t, "used", dep.Path())
		unused, other := object(t, "unused"), object(t, "other")
		base, silent := w.lower(t, "base", dep, used, unused), w.lower(t, "silent", other)
		place := w.optIn(t, base)
		c := w.config(t, base, silent)
		c.Consumer = "me"
		before := tree(t, filepath.Join(silent, "nix/var"))
		s := w.up(t, c)
		mine := filepath.Join(place, "me")
		if got := rootsIn(t, mine); len(got) > 0 {
			t.Errorf("registered before anything is used: %q", got)
		}
		added := object(t, "added", used.Path(), other.Path())
		addTo(t, s.Store, added)
		if got := rootsIn(t, mine); !slices.Equal(got, []string{used.Path().Base()}) {
			t.Errorf("registered: %q", got)
		}
		// The status has that already.
		if holds := s.Status(t.Context()).Holds; len(holds) != 1 || holds[0].Uses < 1 || holds[0].Uses > 2 || holds[0].Roots != 1 || holds[0].Last == nil {
			t.Errorf("%+v", holds)
		}
		holds, err := s.Publish(t.Context())
		if err != nil || len(holds) != 1 || holds[0].Kind != "roots" || holds[0].Uses != 2 || holds[0].Roots != 1 || holds[0].Last == nil {
			t.Errorf("%+v, %v", holds, err)
		}
		if got := collected(t, local.Options{Root: base}, dep, used, unused); !slices.Equal(got, []string{"dep", "used"}) {
			t.Errorf("left in the lower: %q", got)
		}
		// A root of somebody's, of a path that is nowhere but in the lower.
		addTo(t, lowerStore(t, base), unused)
		if _, err := s.Store.AddPermRoot(t.Context(), unused.Path(), w.path("result")); err != nil {
			t.Fatal(err)
		}
		if got := rootsIn(t, mine); len(got) != 2 {
			t.Errorf("registered with a root: %q", got)
		}
		if err := os.Remove(w.path("result")); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Collect(t.Context(), CollectOptions{}); err != nil {
			t.Fatal(err)
		}
		s.age()
		if _, err := s.Publish(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := rootsIn(t, mine); len(got) > 0 {
			t.Errorf("still registered: %q", got)
		}
		if about, err := os.ReadFile(filepath.Join(mine, aboutFile)); err != nil || !strings.Contains(string(about), w.path("upper")) {
			t.Errorf("%q, %v", about, err)
		}
		w.takeDown(t, s)
		if after := tree(t, filepath.Join(silent, "nix/var")); !slices.Equal(before, after) {
			t.Errorf("something was written to a lower that has not opted in:\n%q\n%q", before, after)
		}
	})
}

// age lets time go by for what was leaned on.
func (s *Stack) age() {
	for _, h := range s.background.held() {
		if r, ok := h.do.(*rootsHolder); ok {
			r.mu.Lock()
			for p, at := range r.fresh {
				r.fresh[p] = at.Add(-2 * freshFor)
			}
			r.mu.Unlock()
		}
	}
}

// Who looked what is used before somebody began to lean on something, and tells of it
// when that has long been found, takes nothing away.
func TestRootsByLooksThatOverlap(t *testing.T) {
	place, used := t.TempDir(), object(t, "used").Path()
	h := &rootsHolder{
		links: links{place: place, consumer: "me", dir: storepath.DefaultDir}, state: t.TempDir(), fresh: map[storepath.Path]time.Time{},
		valid: func(_ context.Context, paths []storepath.Path) ([]storepath.Path, error) { return paths, nil },
	}
	renew := func(began time.Time, roots ...storepath.Path) []string {
		t.Helper()
		if err := h.renew(t.Context(), began, overlay.Leaning{Roots: roots}); err != nil {
			t.Fatal(err)
		}
		return rootsIn(t, filepath.Join(place, "me"))
	}
	early := time.Now() // and it finds nothing
	if err := h.lean(t.Context(), []storepath.Path{used}); err != nil {
		t.Fatal(err)
	}
	renew(time.Now(), used)
	if got := renew(early); len(got) != 1 {
		t.Errorf("what an earlier look did not find is lost: %q", got)
	}
	if got := renew(time.Now()); len(got) != 0 {
		t.Errorf("what is not used any more stays: %q", got)
	}
}

func lowerStore(t *testing.T, root string) *local.Store {
	t.Helper()
	return openStore(t, local.Options{Root: root})
}

func openStore(t *testing.T, o local.Options) *local.Store {
	t.Helper()
	s, err := local.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// A lower that the stack's own mounts cover has its place of roots all the same, also
// after a crash.
func TestRootsOfACoveredLower(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		used := object(t, "used")
		w.optIn(t, w.lower(t, "root", used))
		c := w.config(t, w.path("root"))
		c.Consumer = "me"
		s := w.up(t, c)
		addTo(t, s.Store, object(t, "added", used.Path()))
		mine := w.path("upper/lowers/root/roots/me")
		if got := rootsIn(t, mine); !slices.Equal(got, []string{used.Path().Base()}) {
			t.Errorf("registered: %q", got)
		}
		first := len(s.run.Mounts)
		crash(t, s)
		s = w.up(t, c)
		if len(s.run.Mounts) != first || len(s.background.held()) != 1 {
			t.Errorf("after a crash: %d mounts of %d, %d holds", len(s.run.Mounts), first, len(s.background.held()))
		}
		w.takeDown(t, s)
		if got := rootsIn(t, filepath.Join(w.path("root"), stateInRoot, rootsDir, "me")); len(got) != 1 {
			t.Errorf("in the lower: %q", got)
		}
		if got := collected(t, local.Options{Root: w.path("root")}, used); len(got) != 1 {
			t.Error("the lower lost what is used")
		}
	})
}

// In a place where everybody may make names, nobody is led astray.
func TestPlaceOfRootsWithAnAttacker(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		used := object(t, "used")
		base := w.lower(t, "base", used)
		place := w.optIn(t, base)
		victim := w.path("victim")
		if err := os.Mkdir(victim, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, to := range map[string]string{"absolute": victim, "relative": "../../../../../victim", "other": "theirs"} {
			if err := os.Symlink(to, filepath.Join(place, name)); err != nil {
				t.Fatal(err)
			}
			c := w.config(t, base)
			c.Consumer = name
			s := w.up(t, c)
			err := s.Store.Add(t.Context(), object(t, "added", used.Path()).Info, object(t, "added", used.Path()).Reader(), store.AddOptions{NoCheckSigs: true})
			if err == nil || !strings.Contains(err.Error(), "another consumer may have the name") {
				t.Errorf("%s: %v", name, err)
			}
			if st := s.Status(t.Context()); len(st.Problems) == 0 {
				t.Errorf("%s: it is no problem", name)
			}
			w.takeDown(t, s)
		}
		if entries, err := os.ReadDir(victim); err != nil || len(entries) > 0 {
			t.Errorf("written elsewhere: %v, %v", entries, err)
		}
	})
}

// A collection of the lower that runs is waited for, and what it deleted is not leaned
// on.
func TestCollectionOfALowerIsWaitedFor(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		used := object(t, "used")
		base := w.lower(t, "base", used)
		w.optIn(t, base)
		s := w.up(t, w.config(t, base))
		lock, err := os.OpenFile(filepath.Join(base, stateInRoot, "gc.lock"), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Close()
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		errWaited := errors.New("waited long enough")
		place := filepath.Join(base, stateInRoot, rootsDir, s.Config.Consumer)
		go func() { // when it is registered, and so has begun to wait
			await(t, "it is registered", func() bool { return len(rootsIn(t, place)) > 0 })
			cancel(errWaited)
		}()
		if err := s.lean(ctx, 0, []storepath.Path{used.Path()}); !errors.Is(err, errWaited) {
			t.Errorf("it was not waited for: %v", err)
		}
		done := make(chan error)
		go func() { done <- s.lean(t.Context(), 0, []storepath.Path{used.Path()}) }()
		l := lowerStore(t, base)
		if err := l.DB().Invalidate(t.Context(), []storepath.Path{used.Path()}); err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_UN); err != nil {
			t.Fatal(err)
		}
		if err := <-done; !errors.Is(err, lease.ErrGone) {
			t.Errorf("leaning on what is gone: %v", err)
		}
		w.takeDown(t, s)
	})
}

// Leases: published before anything is leaned on, and obeyed by the lower.
func TestLeasesOfManyConsumers(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		dep := object(t, "dep")
		a, b := object(t, "a", dep.Path()), object(t, "b")
		unused := object(t, "unused")
		base := w.lower(t, "base", dep, a, b, unused)
		place, err := lease.OpenDirectory(w.path("leases"))
		if err != nil {
			t.Fatal(err)
		}
		if err := place.Init(t.Context(), lease.Terms{}); err != nil {
			t.Fatal(err)
		}
		for i, used := range []storetest.Object{a, b} {
			name := "consumer" + strconv.Itoa(i)
			c := w.config(t, base)
			c.Upper.Dir, c.Root, c.Lowers[0].Leases = w.path(name), w.path("root"+name), w.path("leases")
			c.Consumer = name
			s := w.up(t, c)
			addTo(t, s.Store, object(t, "on-"+name, used.Path()))
			l, err := place.Read(t.Context(), name)
			if err != nil || !l.Roots.Has(lease.HashOf(used.Path())) || l.Roots.Has(lease.HashOf(dep.Path())) {
				t.Errorf("%+v, %v", l, err)
			}
			if err := s.TakeDown(t.Context(), TakeDownOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		left := collected(t, local.Options{Root: base, Leases: place}, dep, a, b, unused)
		if !slices.Equal(left, []string{"dep", "a", "b"}) {
			t.Errorf("left in the lower: %q", left)
		}
		if err := os.WriteFile(w.path("leases/leases/bad.lease"), []byte("?"), 0o600); err != nil {
			t.Fatal(err)
		}
		l := openStore(t, local.Options{Root: base, Leases: place})
		if _, err := l.CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit}); !errors.Is(err, lease.ErrUnreadable) {
			t.Errorf("a lease that cannot be read: %v", err)
		}
	})
}

// Without its place, nothing more is leaned on, unless the configuration says so.
func TestLeaseRequired(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		used := object(t, "used")
		c := w.config(t, w.lower(t, "base", used))
		c.Lowers[0].Leases = w.path("absent")
		for _, required := range []Choice{Auto, No} {
			c.Lowers[0].LeaseRequired = required
			s := w.up(t, c)
			o := object(t, "added", used.Path())
			err := s.Store.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{NoCheckSigs: true})
			if (err == nil) != (required == No) || err != nil && !errors.Is(err, lease.ErrNoTerms) {
				t.Errorf("required %d: %v", required, err)
			}
			if st := s.Status(t.Context()); len(st.Holds) != 1 || st.Holds[0].Error == "" || len(st.Problems) == 0 {
				t.Errorf("status: %+v, %q", st.Holds, st.Problems)
			}
			w.takeDown(t, s)
		}
		if _, err := os.Lstat(w.path("absent")); err == nil {
			t.Error("a place was made that nobody opened")
		}
	})
}

const leanAtEnv = "STACK_TEST_LEAN_AT"

// leanAndDie brings a stack up over a lower that has opted in and has leases, adds an
// object, lets it go again, and is killed at a mark.
func leanAndDie(dir string, at int) {
	ctx := context.Background()
	c := Config{Upper: Upper{Dir: dir + "/upper"}, Root: dir + "/root", Consumer: "me", Lowers: []Lower{{Path: dir + "/base", Leases: dir + "/leases"}}}
	c, err := c.Resolve("/")
	var s *Stack
	if err == nil {
		s, err = Assemble(ctx, c, parts())
	}
	if err == nil {
		crashpoint.KillAt(at, nil)
		err = s.Announce(ctx, nil)
	}
	if err == nil {
		var info *store.PathInfo
		var archive []byte
		if info, archive, err = leaning(dir); err == nil {
			err = s.Store.Add(ctx, info, bytes.NewReader(archive), store.AddOptions{NoCheckSigs: true})
		}
	}
	if err == nil {
		if _, err = s.Publish(ctx); err == nil {
			if _, err = s.Collect(ctx, CollectOptions{}); err == nil {
				s.age()
				_, err = s.Publish(ctx)
			}
		}
		crashpoint.KillAt(1<<30, nil)
		err = errors.Join(err, s.TakeDown(ctx, TakeDownOptions{}))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Wherever a process is killed, the lower keeps what the upper's database leans on.
func TestLeaningKilledAnywhere(t *testing.T) {
	testenv.Long(t)
	inEach(t, func(t *testing.T, w *world) {
		used := object(t, "used")
		w.optIn(t, w.lower(t, "base", used))
		place, err := lease.OpenDirectory(w.path("leases"))
		if err != nil {
			t.Fatal(err)
		}
		if err := place.Init(t.Context(), lease.Terms{}); err != nil {
			t.Fatal(err)
		}
		// What the child adds refers to what the lower has.
		if err := os.WriteFile(w.path("leaning.nar"), object(t, "leaning").NAR, 0o600); err != nil {
			t.Fatal(err)
		}
		leaned := 0
		for at := 0; ; at++ {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), leanAtEnv+"="+strconv.Itoa(at), crashIn+"="+w.dir, leanOnEnv+"="+used.Path().Base())
			out, runErr := cmd.CombinedOutput()
			if runErr != nil && cmd.ProcessState.String() != "signal: killed" {
				t.Fatalf("point %d: %v\n%s", at, runErr, out)
			}
			s, err := local.Open(t.Context(), local.Options{State: w.path("upper/state"), Real: w.path("upper/layer"), ReadOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			rows, err := s.DB().ValidPaths(t.Context(), []storepath.Path{used.Path()})
			if err = errors.Join(err, s.Close()); err != nil {
				t.Fatal(err)
			}
			roots := rootsIn(t, filepath.Join(w.path("base"), stateInRoot, rootsDir, "me"))
			if _, err := place.Read(t.Context(), "me"); err != nil && leaned > 0 {
				t.Errorf("point %d: the lease cannot be read: %v", at, err)
			}
			if len(rows) > 0 {
				leaned++
				if len(roots) != 1 {
					t.Errorf("point %d: the upper leans on %s, and its roots are %q", at, used.Path(), roots)
				}
			}
			// The next process finds its way, and begins anew.
			c := w.config(t, w.path("base"))
			c.Consumer, c.Lowers[0].Leases = "me", w.path("leases")
			next := w.up(t, c)
			if st := next.Status(t.Context()); len(st.Problems) > 0 {
				t.Errorf("point %d: %q", at, st.Problems)
			}
			if _, err := next.Collect(t.Context(), CollectOptions{}); err != nil {
				t.Errorf("point %d: %v", at, err)
			}
			w.takeDown(t, next)
			if got := rootsIn(t, filepath.Join(w.path("base"), stateInRoot, rootsDir, "me")); len(got) > 0 {
				t.Errorf("point %d: left are %q", at, got)
			}
			if runErr == nil {
				if at < 6 || leaned == 0 {
					t.Errorf("only %d points were met, %d of them leaning", at, leaned)
				}
				return
			}
		}
	})
}

// leanOnEnv is the path that the object of a child refers to.
const leanOnEnv = "STACK_TEST_LEAN_ON"

// leaning is that object; its archive is in a file.
func leaning(dir string) (*store.PathInfo, []byte, error) {
	ref, err := storepath.ParseBase(os.Getenv(leanOnEnv))
	if err != nil {
		return nil, nil, err
	}
	archive, err := os.ReadFile(filepath.Join(dir, "leaning.nar"))
	if err != nil {
		return nil, nil, err
	}
	h := nixhash.Of(nixhash.SHA256, string(archive))
	ca := storepath.ContentAddress{Method: storepath.Recursive, Hash: h}
	p, err := storepath.DefaultDir.Make("leaning", ca, storepath.References{Others: []storepath.Path{ref}})
	return &store.PathInfo{Path: p, NarHash: h, NarSize: uint64(len(archive)), References: []storepath.Path{ref}, CA: ca}, archive, err
}

// What was told the owner of a lower is taken back when that is one no more, and only
// that.
func TestWhatWasToldIsTakenBack(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		used := object(t, "used")
		base := w.lower(t, "base", used)
		place := w.optIn(t, base)
		if err := os.Mkdir(filepath.Join(place, "other"), 0o755); err != nil {
			t.Fatal(err)
		}
		leases, err := lease.OpenDirectory(w.path("leases"))
		if err != nil {
			t.Fatal(err)
		}
		if err := leases.Init(t.Context(), lease.Terms{}); err != nil {
			t.Fatal(err)
		}
		c := w.config(t, base)
		c.Consumer, c.Lowers[0].Leases = "me", w.path("leases")
		s := w.up(t, c)
		addTo(t, s.Store, object(t, "added", used.Path()))
		w.takeDown(t, s)
		if len(rootsIn(t, filepath.Join(place, "me"))) != 1 {
			t.Fatal("nothing was told")
		}
		if err := os.WriteFile(w.path("upper/told.json.new"), []byte("torn"), 0o600); err != nil {
			t.Fatal(err)
		}
		c.Lowers[0].Roots, c.Lowers[0].Leases = No, ""
		s = w.up(t, c)
		await(t, "it is taken back", func() bool {
			_, err := os.Lstat(filepath.Join(place, "me"))
			_, leaseErr := leases.Read(t.Context(), "me")
			return errors.Is(err, fs.ErrNotExist) && leaseErr != nil
		})
		if _, err := os.Lstat(filepath.Join(place, "other")); err != nil {
			t.Error(err)
		}
		w.takeDown(t, s)
	})
}

// An object that is dropped because a lower has it is leaned on from then on.
func TestDroppedDuplicatesAreToldBefore(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		both := object(t, "both")
		base := w.lower(t, "base", object(t, "other"))
		place := w.optIn(t, base)
		c := w.config(t, base)
		c.Consumer = "me"
		s := w.up(t, c)
		addTo(t, s.Store, both)
		w.root(t, "gcroots/both", both)
		w.lower(t, "base", both)
		if err := s.Store.Optimise(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left := layerObjects(t, s); len(left) > 0 {
			t.Errorf("left in the upper: %q", left)
		}
		if got := rootsIn(t, filepath.Join(place, "me")); !slices.Equal(got, []string{both.Path().Base()}) {
			t.Errorf("registered: %q", got)
		}
		if got := collected(t, local.Options{Root: base}, both); len(got) != 1 {
			t.Error("the lower lost it")
		}
		has(t, s, both)
		w.takeDown(t, s)
	})
}
