package stack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/mount"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/overlay"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// inEach runs a test with real mounts in a mount namespace of its own: once as
// root and once in a user namespace, at the same time: each is a process of its own, so that
// nothing that comes after this call in a test may expect them to be over.
func inEach(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	if initial, err := mount.InitialUserNamespace(); err == nil && initial && os.Geteuid() == 0 {
		if err := os.Setenv(bothEnv, "1"); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		t.Run("root", func(t *testing.T) {
			t.Parallel()
			if testenv.Isolate(t, testenv.Namespace{}) {
				test(t, newWorld(t))
			}
		})
	}
	t.Run("user", func(t *testing.T) {
		t.Parallel()
		if testenv.Isolate(t, testenv.Namespace{User: true}) {
			test(t, newWorld(t))
		}
	})
}

// bothEnv is set for the children of tests which run as root and in a user namespace.
const bothEnv = "STACK_TEST_BOTH"

// stride is how far a test that kills a process at one mark after the other goes each time: in a user
// namespace some will do if root does them all. Odd and even marks alternate in any case.
func stride(t *testing.T) int {
	if os.Getenv(bothEnv) != "" && strings.HasSuffix(t.Name(), "/user") {
		return 3
	}
	return 1
}

// world is a directory with what stacks are made of.
type world struct{ dir string }

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{dir: testenv.Scratch(t)}
	var fs unix.Statfs_t
	if err := unix.Statfs(w.dir, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type == unix.OVERLAYFS_SUPER_MAGIC { // as in a container
		if err := unix.Mount("tmpfs", w.dir, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(w.dir, unix.MNT_DETACH) })
	}
	if err := os.Setenv(RuntimeEnv, w.path("run")); err != nil { // this process is for one test
		t.Fatal(err)
	}
	return w
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// lower makes a lower store below a directory, or adds to it.
func (w *world) lower(t *testing.T, name string, objects ...storetest.Object) string {
	t.Helper()
	root := w.path(name)
	s, err := local.Open(t.Context(), local.Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	addTo(t, s, objects...)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return root
}

func addTo(t *testing.T, s store.Adder, objects ...storetest.Object) {
	t.Helper()
	for _, o := range objects {
		if err := s.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{NoCheckSigs: true}); err != nil {
			t.Fatalf("adding %s: %v", o.Path(), err)
		}
	}
}

// config is a stack over lowers, below the directory "root".
func (w *world) config(t *testing.T, lowers ...string) Config {
	t.Helper()
	c := Config{Upper: Upper{Dir: w.path("upper")}, Root: w.path("root")}
	for _, l := range lowers {
		parsed, err := ParseLower(l)
		if err != nil {
			t.Fatal(err)
		}
		c.Lowers = append(c.Lowers, parsed)
	}
	return c
}

func resolved(t *testing.T, c Config) Config {
	t.Helper()
	c, err := c.Resolve("/")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// openLower opens what the tests have as lowers.
func openLower(ctx context.Context, ref store.Reference) (store.Store, error) {
	o := local.Options{
		Dir: storepath.Dir(ref.Param("store")), Root: ref.Param("root"), Real: ref.Param("real"), State: ref.Param("state"),
		ReadOnly: ref.Param("read-only") == "true", URI: ref.String(),
	}
	switch ref.Scheme {
	case "local":
		return local.Open(ctx, o)
	case "local-overlay":
		var lowers []store.Store
		for _, uri := range ref.Params["lower-store"] {
			l, err := store.ParseReference(uri)
			if err != nil {
				return nil, err
			}
			s, err := openLower(ctx, l)
			if err != nil {
				return nil, err
			}
			lowers = append(lowers, s)
		}
		return overlay.Open(ctx, overlay.Options{Upper: o, UpperLayer: ref.Param("upper-layer")}, lowers)
	}
	return nil, fmt.Errorf("no lower of kind '%s' in this test", ref.Scheme)
}

func parts() Parts { return Parts{Open: openLower, Version: "test"} }

// up assembles a stack, which the end of the test takes down.
func (w *world) up(t *testing.T, c Config) *Stack {
	t.Helper()
	s, err := Assemble(t.Context(), resolved(t, c), parts())
	if err != nil {
		t.Fatal(err)
	}
	down := false
	t.Cleanup(func() {
		if !down {
			_ = s.TakeDown(context.Background(), TakeDownOptions{Lazy: true})
		}
	})
	if err := s.Announce(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return s
}

// takeDown takes a stack down and sees that nothing stays.
func (w *world) takeDown(t *testing.T, s *Stack) {
	t.Helper()
	if err := s.TakeDown(t.Context(), TakeDownOptions{}); err != nil {
		t.Fatal(err)
	}
	w.nothingStays(t)
}

func (w *world) nothingStays(t *testing.T) {
	t.Helper()
	if left := w.mounts(t); len(left) > 0 {
		t.Errorf("still mounted: %q", left)
	}
	for _, name := range []string{"upper/run.json", "upper/control", "run/upper.json"} {
		if _, err := os.Lstat(w.path(name)); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
}

// mounts lists the mount points below the world's directory.
func (w *world) mounts(t *testing.T) (out []string) {
	t.Helper()
	entries, err := mount.ReadTable(func(e mount.Entry) bool { return strings.HasPrefix(e.Target, w.dir+"/") })
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		out = append(out, strings.TrimPrefix(e.Target, w.dir+"/"))
	}
	slices.Sort(out)
	return out
}

// has tells whether the merged store shows an object.
func has(t *testing.T, s *Stack, o storetest.Object) {
	t.Helper()
	valid, err := s.Store.ValidPaths(t.Context(), []storepath.Path{o.Path()})
	if err != nil || len(valid) != 1 {
		t.Errorf("%s is not valid: %v", o.Path(), err)
	}
	if _, err := os.Lstat(filepath.Join(s.Config.Mount, o.Path().Base())); err != nil {
		t.Error(err)
	}
}

func object(t *testing.T, name string, refs ...storepath.Path) storetest.Object {
	t.Helper()
	return storetest.File(t, storepath.DefaultDir, name, "contents of "+name, refs...)
}
