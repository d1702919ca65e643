package stack

import (
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/storepath"
)

// Stock Nix opens the upper of an image that was replaced, as a plain store and as the same layered
// one, and finds nothing wrong with it. Before the pivot it does: that is the stale database of an
// upper over an upgraded image.
func TestStockNixAgreesAfterPivot(t *testing.T) {
	testenv.Long(t)
	inEach(t, func(t *testing.T, w *world) {
		nix := testenv.Nix(t, "2.34")
		nix = nix.WithBind(w.dir, w.dir)
		r := newRelease(t, w)
		base := w.path("base")
		if err := os.Rename(r.old, base); err != nil {
			t.Fatal(err)
		}
		c := w.config(t, base)
		c.Root, c.Upper.State = nix.Dir, filepath.Join(nix.Dir, "nix/var/nix")
		s := w.up(t, c)
		r.fill(t, s)
		uri := stockURI(s.Config, base)
		verify := func() { nix.Run(t, "nix-store", "--verify", "--check-contents", "--store", "local") }
		verify()
		w.takeDown(t, s)

		// The image is upgraded behind the upper's back, and mounted as it was before.
		aside := w.path("aside")
		if err := os.Rename(base, aside); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(r.next, base); err != nil {
			t.Fatal(err)
		}
		o := PivotOptions{Old: []Lower{lowerOf(t, aside)}}
		if _, err := MoveUpper(t.Context(), resolved(t, c), parts(), o); err != nil {
			t.Fatal(err)
		}
		s = w.up(t, c)
		verify()
		const features = "nix-command local-overlay-store read-only-local-store"
		out := nix.Run(t, "nix", "--extra-experimental-features", features, "path-info", "-r", "--store", uri, storepath.DefaultDir.Print(r.mine.Path()))
		var want []string
		for _, p := range []storepath.Path{r.libc.Path(), r.tool.Path(), r.mine.Path()} {
			want = append(want, storepath.DefaultDir.Print(p))
		}
		got := strings.Fields(out)
		if slices.Sort(got); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
			t.Errorf("stock Nix reads %q, want %q", got, want)
		}
		nix.Run(t, "nix-store", "--option", "experimental-features", features, "--verify", "--check-contents", "--store", uri)
		if got := inLayer(t, &s.Config); !slices.Equal(got, []string{"libc", "mine", "tool"}) {
			t.Errorf("afterwards the layer holds %q", got)
		}
		sound(t, s)
		w.takeDown(t, s)
	})
}

// stockURI is the layered store for stock Nix.
func stockURI(c Config, lower string) string {
	v := url.Values{
		"state": {c.Upper.State}, "upper-layer": {c.Upper.Layer}, "lower-store": {"local?root=" + lower + "&read-only=true"},
	}
	return "local-overlay://?" + v.Encode()
}
