package overlayfs

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

func TestGuardNoticesWhatHappensToTheMount(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		o := b.options("lower1", "lower2")
		g := NewGuard(o.Target, Expected{Lowers: o.Lowers, Upper: o.Upper})
		check := func(when string, want Mismatch) {
			t.Helper()
			for range 2 { // the second time it may answer from memory
				err := g.Check()
				var me *MismatchError
				switch {
				case want == 0 && err != nil:
					t.Errorf("%s: %v", when, err)
				case want != 0 && (!errors.As(err, &me) || me.Kind != want):
					t.Errorf("%s: %v, want kind %d", when, err, want)
				}
			}
		}
		unmount := func() {
			t.Helper()
			if err := unix.Unmount(o.Target, 0); err != nil {
				t.Fatal(err)
			}
		}
		check("before it is mounted", NothingMounted)
		if _, err := Mount(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		check("mounted", 0)
		unmount()
		check("unmounted", NothingMounted)
		// Device and mount id of the overlay are free again, and likely to be used.
		if err := unix.Mount("tmpfs", o.Target, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		check("another file system", NotAnOverlay)
		unmount()
		swapped := o
		swapped.Lowers = []string{o.Lowers[1], o.Lowers[0]}
		if _, err := Mount(t.Context(), swapped); err != nil {
			t.Fatal(err)
		}
		check("other layers", WrongLowers)
		unmount()
		if _, err := Mount(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		check("mounted again", 0)
		b.tmpfs("merged")
		check("covered", NotAnOverlay)
		unmount()
		check("uncovered", 0)
		unmount()
	})
}

func BenchmarkGuard(b *testing.B) {
	// A bind mount stands for an overlay, as it needs no layers.
	g := NewGuard("/", Expected{Lowers: []string{"/"}})
	if err := g.Check(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := g.Check(); err != nil {
			b.Fatal(err)
		}
	}
}
