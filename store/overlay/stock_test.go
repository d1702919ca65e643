package overlay_test

import (
	"encoding/json"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/overlay"
	"github.com/strata-nix/strata/storepath"
)

// stockLayered is a stock Nix with its layered store.
func stockLayered(t *testing.T) *testenv.NixEnv {
	t.Helper()
	nix := testenv.Nix(t, "2.34")
	nix.Configure(t, "extra-experimental-features = local-overlay-store read-only-local-store")
	return nix
}

// uri is the world for a stock Nix. That has one lower: with more of them it is told of the
// first, and not to compare the mount.
func (w *world) uri() string {
	v := url.Values{
		"root": {filepath.Join(w.dir, "merged")}, "state": {filepath.Join(w.dir, "state")}, "upper-layer": {w.upper()},
		"lower-store": {"local?root=" + w.lowers[0] + "&read-only=true"},
	}
	if len(w.lowers) > 1 {
		v.Set("check-mount", "false")
	}
	return "local-overlay://?" + v.Encode()
}

// stockAgrees sees that a stock Nix, over the same upper, lowers and mount, finds nothing wrong,
// and the same paths, references and garbage as we do.
func (w *world) stockAgrees(t *testing.T, nix *testenv.NixEnv, s *overlay.Store) {
	t.Helper()
	nix = nix.WithBind(w.dir, w.dir)
	nix.Run(t, "nix-store", "--store", w.uri(), "--verify", "--check-contents")

	refs := map[string][]string{}
	for p, err := range s.AllPaths(t.Context()) {
		must(t, err)
		info, err := store.PathInfoOf(t.Context(), s, p)
		must(t, err)
		refs[s.Dir().Print(p)] = printed(s.Dir(), info.References)
	}
	var infos map[string]struct{ References []string }
	must(t, json.Unmarshal([]byte(nix.Run(t, "nix", "--store", w.uri(), "path-info", "--json", "--all")), &infos))
	for p, info := range infos {
		slices.Sort(info.References)
		if !slices.Equal(info.References, refs[p]) {
			t.Errorf("stock Nix says that '%s' refers to %q, and we %q", p, info.References, refs[p])
		}
	}
	if len(infos) != len(refs) {
		t.Errorf("stock Nix has the paths %q, and we %q", slices.Sorted(maps.Keys(infos)), slices.Sorted(maps.Keys(refs)))
	}

	dead, err := s.CollectGarbage(t.Context(), store.GCOptions{Action: store.ReturnDead, MaxFreed: store.NoLimit})
	must(t, err)
	// It takes all that shows for its own, also what only a lower has, and would not delete that.
	upper := map[string]bool{}
	for _, name := range objects(t, w.upper()) {
		upper[string(s.Dir())+"/"+name] = true
	}
	theirs := strings.Fields(nix.Run(t, "nix-store", "--store", w.uri(), "--gc", "--print-dead"))
	theirs = slices.DeleteFunc(theirs, func(p string) bool { return refs[p] == nil && !upper[p] })
	slices.Sort(theirs)
	ours := slices.Sorted(slices.Values(dead.Paths))
	if !slices.Equal(theirs, ours) {
		t.Errorf("stock Nix takes for garbage %q, and we %q", theirs, ours)
	}
}

func printed(dir storepath.Dir, paths []storepath.Path) []string {
	out := make([]string, len(paths)) // never nil
	for i, p := range paths {
		out[i] = dir.Print(p)
	}
	slices.Sort(out)
	return out
}
