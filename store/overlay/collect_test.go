package overlay_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// diskUse is what an object takes of the disk.
func diskUse(t *testing.T, object string) (sum uint64) {
	t.Helper()
	err := filepath.WalkDir(object, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := os.Lstat(path)
		if err == nil {
			sum += uint64(fi.Sys().(*syscall.Stat_t).Blocks) * 512 //nolint:forcetypeassert // on Linux
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// A limit counts what the upper layer gives back: nothing for what only a lower has,
// the upper's copy of what both have.
func TestLimitedCollection(t *testing.T) {
	if !isolated(t) {
		return
	}
	var below, both, own []storetest.Object
	for i := range 6 {
		tree := func(name string) storetest.Object {
			return storetest.Tree(t, storepath.DefaultDir, fmt.Sprint(name, i), map[string]string{"bin/x": strings.Repeat(name, 30_000), "y": "y"})
		}
		below, both, own = append(below, tree("below")), append(both, tree("both")), append(own, tree("own"))
	}
	w := newWorld(t, 1, func(_ int, s *local.Store) { addTo(t, s, below...) })
	s := w.open(t)
	addTo(t, s, below...) // no more than a question
	addTo(t, s, append(both, own...)...)
	l := w.lower(t, w.lowers[0], false)
	addTo(t, l, both...)
	_ = l.Close()
	// Rows of what a lower has, which are garbage, too.
	refers := storetest.File(t, storepath.DefaultDir, "refers", "x", below[0].Path(), below[1].Path())
	addTo(t, s, refers)

	here := objects(t, w.upper())
	size := map[string]uint64{}
	largest, all := uint64(0), uint64(0)
	for _, name := range here {
		size[name] = diskUse(t, filepath.Join(w.upper(), name))
		largest, all = max(largest, size[name]), all+size[name]
	}
	said, err := s.CollectGarbage(t.Context(), store.GCOptions{Action: store.ReturnDead, MaxFreed: store.NoLimit, Measure: true})
	if err != nil || said.BytesFreed != all {
		t.Errorf("a dry run says %d bytes, there are %d (%v)", said.BytesFreed, all, err)
	}
	for range 20 {
		before := objects(t, w.upper())
		if len(before) == 0 {
			break
		}
		limit := 2 * largest
		res, err := s.CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteDead, MaxFreed: limit})
		if err != nil {
			t.Fatal(err)
		}
		gone := uint64(0)
		after := objects(t, w.upper())
		for _, name := range before {
			if !slices.Contains(after, name) {
				gone += size[name]
			}
		}
		if res.BytesFreed != gone || gone == 0 || gone > limit+largest {
			t.Errorf("%d bytes left the upper layer, %d said, limit %d", gone, res.BytesFreed, limit)
		}
	}
	if got := objects(t, w.upper()); len(got) > 0 {
		t.Errorf("the upper layer has %q", got)
	}
	for _, o := range slices.Concat(below, both) {
		if b, err := os.ReadFile(filepath.Join(w.merged(), o.Path().Base(), "y")); err != nil || string(b) != "y" {
			t.Errorf("%s: %q, %v", o.Path(), b, err)
		}
	}
}

// A path that only a lower has is kept by the roots of the upper that lead to it, by way
// of any layer.
func TestWhyAlive(t *testing.T) {
	if !isolated(t) {
		return
	}
	chain := storetest.Chain(t, storepath.DefaultDir, 4)
	other := storetest.File(t, storepath.DefaultDir, "other", "x")
	w := newWorld(t, 1, func(_ int, s *local.Store) { addTo(t, s, chain[:2]...); addTo(t, s, other) })
	s := w.open(t)
	addTo(t, s, chain[2:]...)
	link := filepath.Join(w.dir, "root")
	if _, err := s.AddPermRoot(t.Context(), chain[3].Path(), link); err != nil {
		t.Fatal(err)
	}
	reasons, err := s.WhyAlive(t.Context(), []storepath.Path{other.Path(), chain[0].Path(), chain[2].Path()}, false)
	if err != nil || len(reasons) != 3 || len(reasons[0]) != 0 {
		t.Fatalf("%+v, %v", reasons, err)
	}
	for i, last := range map[int]storetest.Object{1: chain[0], 2: chain[2]} {
		if len(reasons[i]) != 1 || !slices.Equal(reasons[i][0].Links, []string{link}) {
			t.Fatalf("%+v", reasons[i])
		}
		way := reasons[i][0].Chain
		if way[0].Path != chain[3].Path() || way[len(way)-1].Path != last.Path() {
			t.Errorf("%+v", way)
		}
	}
	below := filepath.Join(w.dir, "below")
	if _, err := s.AddPermRoot(t.Context(), other.Path(), below); err != nil {
		t.Fatal(err)
	}
	if reasons, err := s.WhyAlive(t.Context(), []storepath.Path{other.Path()}, true); err != nil || len(reasons[0]) != 1 {
		t.Errorf("%+v, %v", reasons, err)
	}
}
