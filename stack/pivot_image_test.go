package stack

import (
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
)

// An image is replaced by the next release, under the same name, while programs run from the old
// one; then while nothing runs; then by an older one, with a directory beside it.
func TestPivotToAnotherImage(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	mkfs := testenv.EROFSMount(t)
	w := newWorld(t)
	r := newRelease(t, w)
	image := func(name, of string) string {
		if out, err := exec.Command(mkfs, w.path(name), of).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return w.path(name)
	}
	base := image("base.erofs", r.old)
	oldImage := w.path("25.05.erofs")
	if err := os.Link(base, oldImage); err != nil {
		t.Fatal(err)
	}
	replace := func(by string) {
		if err := os.Rename(by, base); err != nil {
			t.Fatal(err)
		}
	}
	c := w.config(t, base)
	s := w.up(t, c)
	r.fill(t, s)
	fromImage, fromUpper := runFrom(t, s, r.tool), runFrom(t, s, r.mine)

	replace(image("next.erofs", r.next))
	res, err := s.Pivot(t.Context(), PivotOptions{})
	if err != nil || !res.Done || res.Plan.Copied.Objects != 2 || res.Changes[0].Kind != LowerReplaced {
		t.Fatalf("%+v, %v", res, err)
	}
	r.next = base
	r.moved(t, s)
	fromImage.works()
	fromUpper.works()
	fromImage.end()
	fromUpper.end()
	if got := w.mounts(t); !slices.Contains(got, "upper/lowers/base.2") || slices.Contains(got, "upper/lowers/base") {
		t.Errorf("mounted: %q", got)
	}
	// A killed process: what it had mounted is dealt with by the next.
	crash(t, s)
	s = w.up(t, c)
	r.moved(t, s)
	if res, err := s.Pivot(t.Context(), PivotOptions{}); err != nil || res.Plan != nil {
		t.Errorf("nothing changed: %+v, %v", res, err)
	}

	// One lower more: the image that stays is not mounted again.
	plain := w.lower(t, "plain", r.libc, r.tool)
	both := []Lower{lowerOf(t, plain), lowerOf(t, base)}
	if res, err = s.Pivot(t.Context(), PivotOptions{Lowers: both}); err != nil || res.Plan.Duplicates.Objects != 2 {
		t.Fatalf("%+v, %v", res, err)
	}
	if got := w.mounts(t); !slices.Contains(got, "upper/lowers/base") || slices.Contains(got, "upper/lowers/base.2") {
		t.Errorf("mounted: %q", got)
	}
	sound(t, s)
	w.takeDown(t, s)

	// While it is down: the old image under the name, whose successor is gone.
	replace(oldImage)
	s = w.up(t, c)
	if got := inLayer(t, &s.Config); !slices.Equal(got, []string{"mine"}) {
		t.Errorf("over the old image again, the layer holds %q", got)
	}
	sound(t, s)
	w.takeDown(t, s)
}
