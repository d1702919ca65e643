package local_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strata-nix/strata/check"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/lease"
	"github.com/strata-nix/strata/storepath"
)

// Leases that name what is gone, that lapsed or that nobody can read are told; only
// the lapsed can be mended by the owner of the lower.
func TestCheckOfLeases(t *testing.T) {
	w := newChecked(t, testenv.Scratch(t))
	dir := testenv.Scratch(t)
	place, err := lease.OpenDirectory(dir)
	must(t, err)
	must(t, place.Init(t.Context(), lease.Terms{StoreDir: storepath.DefaultDir, Term: time.Hour}))
	w.o.Leases = place
	stray, err := storepath.ParseBase(otherPath)
	must(t, err)
	publish := func(consumer string, paths ...storepath.Path) {
		t.Helper()
		k, err := lease.NewKeeper(place, lease.KeeperOptions{
			Consumer: consumer, Holder: "the machine of " + consumer, StoreDir: storepath.DefaultDir,
			Uses:  func(context.Context) ([]storepath.Path, uint64, error) { return paths, uint64(len(paths)), nil },
			Valid: func(_ context.Context, p []storepath.Path) ([]storepath.Path, error) { return p, nil },
		})
		must(t, err)
		_, err = k.RenewWith(t.Context(), time.Now(), paths, uint64(len(paths)))
		must(t, err)
	}
	publish("good", w.chain[2].Path())
	if r := w.run(t, check.Options{}); len(r.Findings) > 0 {
		t.Fatalf("%q", sentences(r))
	}
	publish("bad", w.chain[2].Path(), stray)
	old := lease.Lease{
		Consumer: "gone", Holder: "the machine of gone", StoreDir: storepath.DefaultDir, Sequence: 1,
		Published: time.Now().Add(-1000 * time.Hour), Expires: time.Now().Add(-999 * time.Hour), Uses: 1, Roots: lease.HashesOf([]storepath.Path{w.chain[2].Path()}),
	}
	text, err := old.Encode()
	must(t, err, os.WriteFile(filepath.Join(dir, "leases/gone.lease"), text, 0o644))
	for _, repair := range []bool{false, true} {
		r := w.run(t, check.Options{Repair: repair})
		text := strings.Join(sentences(r), "\n")
		if len(r.Findings) != 2 || !slices.Equal(codes(r), []check.Code{check.LeaseDangling}) ||
			!strings.Contains(text, "the machine of bad' leans on") || !strings.Contains(text, "the machine of gone' has not been heard of since") {
			t.Errorf("%s", text)
		}
	}
	if r := w.run(t, check.Options{}); len(r.Findings) != 1 {
		t.Errorf("after the repair: %q", sentences(r))
	}
	must(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && strings.Contains(filepath.Base(path), "good") {
			err = os.WriteFile(path, []byte("nonsense"), 0o644)
		}
		return err
	}))
	if r := w.run(t, check.Options{}); len(r.Findings) != 2 || !strings.Contains(strings.Join(sentences(r), "\n"), "cannot be read") {
		t.Errorf("%q", sentences(r))
	}
}
