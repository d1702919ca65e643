package stack

import (
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
)

// stockLayered is a stock Nix that knows layered stores.
func stockLayered(t *testing.T) *testenv.NixEnv {
	t.Helper()
	nix := testenv.Nix(t, "2.34")
	nix.Configure(t, "extra-experimental-features = local-overlay-store read-only-local-store")
	return nix
}

// stockAgrees sees that a stock Nix, over the upper, the one lower and the mount of a stack, finds
// nothing wrong, and the same paths, references and garbage as we do.
func (w *world) stockAgrees(t *testing.T, nix *testenv.NixEnv, s *Stack) {
	t.Helper()
	c := &s.Config
	// Ours first: it makes rows of what only the lower has when it looks for garbage.
	ours := map[string][]string{}
	for p, err := range s.Store.AllPaths(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		info, err := store.PathInfoOf(t.Context(), s.Store, p)
		if err != nil {
			t.Fatal(err)
		}
		refs := []string{}
		for _, r := range info.References {
			refs = append(refs, c.StoreDir.Print(r))
		}
		slices.Sort(refs)
		ours[c.StoreDir.Print(p)] = refs
	}
	dead, err := s.Store.CollectGarbage(t.Context(), store.GCOptions{Action: store.ReturnDead, MaxFreed: store.NoLimit})
	if err != nil {
		t.Fatal(err)
	}
	v := url.Values{
		"root": {c.Root}, "state": {c.Upper.State}, "upper-layer": {c.Upper.Layer},
		"lower-store": {"local?root=" + c.Lowers[0].Path + "&read-only=true"},
	}
	// One after the other in one place, which takes some time to make.
	const script = `nix-store --store "$1" --verify --check-contents >&2 && nix --store "$1" path-info --json --all && echo && nix-store --store "$1" --gc --print-dead`
	out := nix.WithBind(w.dir, w.dir).Run(t, "sh", "-c", script, "sh", "local-overlay://?"+v.Encode())
	text, list, _ := strings.Cut(out, "\n")
	var infos map[string]struct{ References []string }
	if err := json.Unmarshal([]byte(text), &infos); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if len(infos) != len(ours) {
		t.Errorf("stock Nix has the paths %q, and we %q", slices.Sorted(maps.Keys(infos)), slices.Sorted(maps.Keys(ours)))
	}
	for p, refs := range ours {
		theirs := infos[p].References
		if slices.Sort(theirs); !slices.Equal(theirs, refs) {
			t.Errorf("stock Nix says that '%s' refers to %q, and we %q", p, theirs, refs)
		}
	}
	theirs := strings.Fields(list)
	for _, p := range dead.Paths { // it takes what only the lower has for its own as well
		if !slices.Contains(theirs, p) {
			t.Errorf("'%s' is no garbage to stock Nix", p)
		}
	}
	for _, p := range theirs {
		if _, valid := infos[p]; valid && !slices.Contains(dead.Paths, p) {
			t.Errorf("'%s' is garbage to stock Nix, and not to us", p)
		}
	}
}
