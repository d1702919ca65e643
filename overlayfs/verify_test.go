package overlayfs

import (
	"errors"
	"os"
	"regexp"
	"testing"

	"golang.org/x/sys/unix"
)

// mismatch verifies and returns the kind of the mismatch, 0 for none.
func (b *box) mismatch(target string, want Expected) (Mismatch, string) {
	b.t.Helper()
	err := Verify(target, want)
	if err == nil {
		return 0, ""
	}
	var me *MismatchError
	if !errors.As(err, &me) {
		b.t.Fatalf("not a MismatchError: %v", err)
	}
	// What the scripts of Nix's own tests look for.
	if !regexp.MustCompile("overlay filesystem .* mounted incorrectly").MatchString(err.Error()) {
		b.t.Errorf("the error does not have Nix's words: %v", err)
	}
	return me.Kind, err.Error()
}

func TestVerifyTellsWhatIsWrong(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		o := b.options("lower1", "lower2")
		b.mount(o)
		b.tmpfs("tmp")
		b.mkdir("plain")
		l1, l2, up := o.Lowers[0], o.Lowers[1], o.Upper
		tests := []struct {
			name   string
			target string
			want   Expected
			kind   Mismatch
			says   []string
		}{
			{"right", o.Target, Expected{Lowers: o.Lowers, Upper: up}, 0, nil},
			{"not mounted", b.path("plain"), Expected{Lowers: o.Lowers, Upper: up}, NothingMounted, []string{b.path("plain"), "nothing", l1, up}},
			{"inside a mount", b.mkdir("merged/sub"), Expected{Lowers: o.Lowers, Upper: up}, NothingMounted, nil},
			{"no target", b.path("nope/nix/store"), Expected{Lowers: o.Lowers, Upper: up}, NothingMounted, []string{"no such file"}},
			{"tmpfs", b.path("tmp"), Expected{Lowers: o.Lowers, Upper: up}, NotAnOverlay, []string{"tmpfs"}},
			{"tmpfs for one lower", b.path("tmp"), Expected{Lowers: o.Lowers[:1]}, WrongLowers, nil},
			{"order", o.Target, Expected{Lowers: []string{l2, l1}, Upper: up}, WrongLowers, []string{`found lowerdir ["` + l1}},
			{"one missing", o.Target, Expected{Lowers: []string{l1, l2, b.path("plain")}, Upper: up}, WrongLowers, []string{"plain", "missing"}},
			{"one more", o.Target, Expected{Lowers: []string{l1}, Upper: up}, WrongLowers, []string{"one too many"}},
			{"one more is fine", o.Target, Expected{Lowers: []string{l1}, Upper: up, AllowMoreLowers: true}, 0, nil},
			{"one more in front is fine", o.Target, Expected{Lowers: []string{l2}, Upper: up, AllowMoreLowers: true}, 0, nil},
			{"more, but order", o.Target, Expected{Lowers: []string{l2, l1}, Upper: up, AllowMoreLowers: true}, WrongLowers, nil},
			{"upper", o.Target, Expected{Lowers: o.Lowers, Upper: b.path("plain")}, WrongUpper, []string{"plain", up}},
			{"upper missing", o.Target, Expected{Lowers: o.Lowers, Upper: b.path("nope")}, WrongUpper, nil},
			{"no upper wanted", o.Target, Expected{Lowers: o.Lowers}, WrongUpper, []string{"no upperdir"}},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				kind, text := b.mismatch(tt.target, tt.want)
				if kind != tt.kind {
					t.Fatalf("kind %d, want %d: %s", kind, tt.kind, text)
				}
				contains(t, text, tt.says...)
			})
		}
	})
}

func TestVisibleOneOfAStackCounts(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		first, second := b.options("lower1"), b.options("lower2")
		second.Upper, second.Work = b.mkdir("upper2"), b.mkdir("work2")
		b.mount(first)
		b.mount(second)
		one := Expected{Lowers: first.Lowers, Upper: first.Upper}
		two := Expected{Lowers: second.Lowers, Upper: second.Upper}
		b.want("stack", b.mounts(first.Target), "overlay overlay")
		if kind, text := b.mismatch(first.Target, two); kind != 0 {
			t.Error(text)
		}
		if kind, _ := b.mismatch(first.Target, one); kind != WrongLowers {
			t.Errorf("the covered mount is accepted: %d", kind)
		}
		b.tmpfs("merged")
		if kind, _ := b.mismatch(first.Target, two); kind != NotAnOverlay {
			t.Errorf("below a tmpfs: %d", kind)
		}
	})
}

// A mount deep in a directory over which another is mounted is in the table,
// but nobody sees it.
func TestMountHiddenByAParentDoesNotCount(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		o := b.options()
		o.Target = b.mkdir("parent/merged")
		b.mount(o)
		want := Expected{Lowers: o.Lowers, Upper: o.Upper}
		b.tmpfs("parent")
		if kind, _ := b.mismatch(o.Target, want); kind != NothingMounted {
			t.Errorf("without the directory: %d", kind)
		}
		b.mkdir("parent/merged")
		if kind, _ := b.mismatch(o.Target, want); kind != NothingMounted {
			t.Errorf("with a directory: %d", kind)
		}
	})
}

func TestMountThatOthersMade(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		b.bind(b.path("lower1"), b.mkdir("alias"))
		extra := ""
		if user, _ := (Options{}).userXattr(); user {
			extra = ",userxattr"
		}
		t.Chdir(b.dir)
		data := "lowerdir=lower1:lower2,upperdir=" + b.path("upper") + ",workdir=work" + extra
		if err := unix.Mount("whatever", b.path("merged"), "overlay", 0, data); err != nil {
			t.Fatal(err)
		}
		b.unmountLater(b.path("merged"))
		want := Expected{Lowers: []string{b.path("lower1"), b.path("lower2")}, Upper: b.path("upper")}
		kind, text := b.mismatch(b.path("merged"), want)
		if kind != WrongLowers {
			t.Errorf("relative lowers: %d", kind)
		}
		contains(t, text, "relative")
		want.AllowRelative = true
		if kind, text = b.mismatch(b.path("merged"), want); kind != 0 {
			t.Error(text)
		}
		want.Lowers[0] = b.path("xlower1")
		if kind, _ = b.mismatch(b.path("merged"), want); kind != WrongLowers {
			t.Errorf("half a name is enough: %d", kind)
		}

		data = "lowerdir=" + b.path("alias") + ",upperdir=" + b.mkdir("u2") + ",workdir=" + b.mkdir("w2") + extra
		if err := unix.Mount("overlay", b.mkdir("m2"), "overlay", 0, data); err != nil {
			t.Fatal(err)
		}
		b.unmountLater(b.path("m2"))
		if kind, text = b.mismatch(b.path("m2"), Expected{Lowers: []string{b.path("lower1")}, Upper: b.path("u2")}); kind != 0 {
			t.Errorf("a lower by another mount: %s", text)
		}
	})
}

func TestReplacedUpperIsNoticed(t *testing.T) {
	inEachOnDisk(t, func(t *testing.T, b *box) {
		for _, lower := range []string{"lower1", "tmp"} {
			t.Run(lower, func(t *testing.T) {
				if lower == "tmp" {
					b.tmpfs("tmp")
				}
				o := b.options(lower)
				o.Upper, o.Work = b.mkdir("u-"+lower), b.mkdir("w-"+lower)
				m := b.mount(o)
				want := Expected{Lowers: o.Lowers, Upper: o.Upper}
				b.write(lower+"/x", "")
				if kind, text := b.mismatch(o.Target, want); kind != 0 {
					t.Fatal(text)
				}
				if err := os.Rename(o.Upper, o.Upper+".old"); err != nil {
					t.Fatal(err)
				}
				b.mkdir("u-" + lower)
				if kind, _ := b.mismatch(o.Target, want); kind != UpperReplaced {
					t.Errorf("kind %d", kind)
				}
				h, err := CheckHealth(t.Context(), o.Target, &m.Record)
				if err != nil || len(h.Problems) == 0 {
					t.Errorf("health: %v %v", h.Problems, err)
				}
				if err := m.Unmount(t.Context(), UnmountOptions{}); err != nil {
					t.Fatal(err)
				}
			})
		}
	})
}

func TestVerifyWantsTheRecordedMount(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		o := b.options()
		m := b.mount(o)
		want := Expected{Lowers: o.Lowers, Upper: o.Upper, Record: &m.Record}
		if kind, text := b.mismatch(o.Target, want); kind != 0 {
			t.Fatal(text)
		}
		if err := m.Unmount(t.Context(), UnmountOptions{}); err != nil {
			t.Fatal(err)
		}
		b.mount(o) // the same again, but not that one
		if kind, _ := b.mismatch(o.Target, want); kind != NotRecorded {
			t.Errorf("kind %d", kind)
		}
		if err := Unmount(t.Context(), m.Record, UnmountOptions{}); !errors.Is(err, ErrNotMounted) {
			t.Errorf("unmounting by an old record: %v", err)
		}
		b.want("mounts", b.mounts(o.Target), "overlay")
	})
}
