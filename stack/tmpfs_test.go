package stack

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/mount"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

func TestSizeOfATmpfs(t *testing.T) {
	for text, want := range map[string]uint64{"1048576": 1 << 20, "1024k": 1 << 20, "4G": 4 << 30, "2T": 2 << 40} {
		if got, err := ParseTmpfs(text); got != want || err != nil {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	half, err := ParseTmpfs("50%")
	if all, allErr := memorySize(); err != nil || allErr != nil || half > all/2 || half < all/2-all/50 {
		t.Errorf("half of %d is %d: %v, %v", all, half, err, allErr)
	}
	for _, text := range []string{"", "G", "%", "-1", "4GB", "4.5G", "0", "1k", "9999999999999999999", "9999999t", "1 G", "0x10M"} {
		if got, err := ParseTmpfs(text); err == nil {
			t.Errorf("%q is %d bytes", text, got)
		}
	}
}

func TestPlacesOfAThrowawayUpper(t *testing.T) {
	t.Setenv(RuntimeEnv, "/run/here")
	c := Config{Upper: Upper{Tmpfs: 1 << 30}, Lowers: []Lower{{Path: "/l"}}}
	r, err := c.Resolve("/")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ what, got, want string }{
		{"name", r.Name, "tmpfs"},
		{"dir", r.Upper.Dir, "/run/here/uppers/tmpfs"},
		{"layer", r.Upper.Layer, "/run/here/uppers/tmpfs/tmpfs/layer"},
		{"state", r.Upper.State, "/run/here/uppers/tmpfs/tmpfs/state"},
		{"socket", r.Socket, "/run/here/uppers/tmpfs/daemon-socket/socket"},
		{"socket of clients", r.ClientSocket(), "/nix/var/nix/daemon-socket/socket"},
		{"client", r.ClientURI(), "daemon"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %q, want %q", tt.what, tt.got, tt.want)
		}
	}
	c.Name, c.Upper.Log = "ci", "/var/log/ci"
	if r, err = c.Resolve("/"); err != nil || r.Upper.Dir != "/run/here/uppers/ci" || r.Upper.Log != "/var/log/ci" {
		t.Errorf("%+v, %v", r.Upper, err)
	}
	c.Upper.State = "/elsewhere"
	var ce *ConfigError
	if _, err = c.Resolve("/"); !errors.As(err, &ce) || ce.Key != "upper.state" {
		t.Errorf("a state that outlives its objects: %v", err)
	}
}

func (w *world) throwaway(t *testing.T, lowers ...string) Config {
	t.Helper()
	c := w.config(t, lowers...)
	c.Upper.Tmpfs = 64 << 20
	return c
}

func TestThrowawayUpper(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		a, b := object(t, "a"), object(t, "b")
		c := w.throwaway(t, w.lower(t, "base", a))
		s := w.up(t, c)
		addTo(t, s.Store, b)
		has(t, s, a)
		has(t, s, b)
		var fs unix.Statfs_t
		if err := unix.Statfs(filepath.Join(w.path("upper/tmpfs/layer"), b.Path().Base()), &fs); err != nil || fs.Type != unix.TMPFS_MAGIC {
			t.Errorf("the object is on file system %#x: %v", fs.Type, err)
		}
		if fs.Files != minInodes {
			t.Errorf("%d files fit", fs.Files)
		}
		upper := s.Status(t.Context()).Layers[0]
		if d := upper.Disk; !upper.Tmpfs || d == nil || d.Size != 64<<20 || d.Available >= d.Size || d.Available == 0 {
			t.Errorf("%+v, %+v", upper, upper.Disk)
		}
		gone := store.GCOptions{Action: store.DeleteSpecific, Paths: []storepath.Path{b.Path()}, MaxFreed: store.NoLimit}
		if _, err := s.Store.CollectGarbage(t.Context(), gone); err != nil {
			t.Error(err)
		}
		addTo(t, s.Store, b)
		w.takeDown(t, s)
		if left, err := os.ReadDir(w.path("upper/tmpfs")); err != nil || len(left) > 0 {
			t.Errorf("left in the upper: %v, %v", left, err)
		}
		s = w.up(t, c)
		if valid, err := s.Store.ValidPaths(t.Context(), []storepath.Path{b.Path()}); err != nil || len(valid) > 0 {
			t.Errorf("after a new start it has %v: %v", valid, err)
		}
		w.takeDown(t, s)
	})
}

// What a killed process left is thrown away, even if the same is wanted again.
func TestThrowawayUpperOfAKilledProcess(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		a, b := object(t, "a"), object(t, "b")
		c := w.throwaway(t, w.lower(t, "base", a))
		s := w.up(t, c)
		addTo(t, s.Store, b)
		crash(t, s)
		s = w.up(t, c)
		if valid, err := s.Store.ValidPaths(t.Context(), []storepath.Path{b.Path()}); err != nil || len(valid) > 0 {
			t.Errorf("after a new start it has %v: %v", valid, err)
		}
		has(t, s, a)
		entries, err := mount.ReadTable(func(e mount.Entry) bool { return e.Target == w.path("upper/tmpfs") })
		if err != nil || len(entries) != 1 {
			t.Errorf("mounted over each other: %v, %v", entries, err)
		}
		crash(t, s)

		// A program that runs from it is not cut off without asking.
		user := exec.Command("sleep", "1000")
		user.Dir = s.Config.Mount
		if err := user.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _, _ = user.Process.Kill(), user.Wait() }()
		_, err = Assemble(t.Context(), resolved(t, c), parts())
		var busy *overlayfs.BusyError
		if !errors.As(err, &busy) {
			t.Fatalf("%v", err)
		}
		c.Lazy = true
		s = w.up(t, c)
		has(t, s, a)
		_, _ = user.Process.Kill(), user.Wait()
		w.takeDown(t, s)
	})
}

// The same directory may have an upper of either kind, one after the other.
func TestThrowawayUpperBesideOneThatIsKept(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		b := object(t, "b")
		kept := w.config(t, w.lower(t, "base"))
		s := w.up(t, kept)
		addTo(t, s.Store, b)
		crash(t, s)
		thrown := kept
		thrown.Upper.Tmpfs = 64 << 20
		s = w.up(t, thrown)
		if valid, err := s.Store.ValidPaths(t.Context(), []storepath.Path{b.Path()}); err != nil || len(valid) > 0 {
			t.Errorf("%v, %v", valid, err)
		}
		crash(t, s)
		s = w.up(t, kept)
		has(t, s, b)
		if got := w.mounts(t); slices.ContainsFunc(got, func(m string) bool { return strings.Contains(m, "tmpfs") }) {
			t.Errorf("mounted: %q", got)
		}
		w.takeDown(t, s)
	})
}

// A full upper says so, and is what it was.
func TestThrowawayUpperIsFull(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		c := w.throwaway(t, w.lower(t, "base"))
		c.Upper.Tmpfs = 4 << 20
		s := w.up(t, c)
		large := storetest.File(t, storepath.DefaultDir, "large", strings.Repeat("x", 8<<20))
		err := s.Store.Add(t.Context(), large.Info, large.Reader(), store.AddOptions{NoCheckSigs: true})
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%v", err)
		}
		small := object(t, "small")
		addTo(t, s.Store, small)
		has(t, s, small)
		w.takeDown(t, s)
	})
}
