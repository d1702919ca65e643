package overlayfs

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWhiteoutsInBothForms(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		user, err := (Options{}).userXattr()
		if err != nil {
			t.Fatal(err)
		}
		prefix := xattrPrefix(user)
		b.write("d/plain", "")
		b.write("d/full", "x")
		b.write("d/white", "")
		b.symlink("x", "d/link")
		if err := unix.Setxattr(b.path("d/white"), prefix+"whiteout", []byte("y"), 0); err != nil {
			t.Fatal(err)
		}
		check := func(name string, want bool) {
			t.Helper()
			if got, err := IsWhiteout(b.path("d/" + name)); err != nil || got != want {
				t.Errorf("%s: %v %v", name, got, err)
			}
		}
		check("white", false) // its directory does not say that it has such
		if err := unix.Setxattr(b.path("d"), prefix+"opaque", []byte("x"), 0); err != nil {
			t.Fatal(err)
		}
		check("white", true)
		check("plain", false)
		check("full", false)
		check("link", false)
		b.mount(b.options())
		b.write("lower1/gone", "")
		if err := os.Remove(b.path("merged/gone")); err != nil {
			t.Fatal(err)
		}
		if is, err := IsWhiteout(b.path("upper/gone")); err != nil || !is {
			t.Errorf("the kernel's own: %v %v", is, err)
		}
		fi, err := os.Lstat(b.path("upper/gone"))
		if err != nil || !IsWhiteoutInfo(fi) {
			t.Errorf("the kernel's own: %v", err)
		}
		if err := RemoveWhiteout(b.path("d/plain")); !errors.Is(err, ErrNotWhiteout) {
			t.Errorf("%v", err)
		}
		if got, err := Whiteouts(t.Context(), b.path("d")); err != nil || join(got) != "white" {
			t.Errorf("%q %v", got, err)
		}
		if _, err := IsWhiteout(b.path("nope")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%v", err)
		}
		if opaque, err := IsOpaque(b.path("d")); err != nil || opaque {
			t.Errorf("x is not y: %v %v", opaque, err)
		}
	})
}

// The facts about merging that the package comment tells.
func TestWhatMergesAndWhatDoesNot(t *testing.T) {
	inEachOnDisk(t, func(t *testing.T, b *box) {
		for _, xino := range []string{"on", "off"} {
			up, work, merged := "u-"+xino, "w-"+xino, "m-"+xino
			o := Options{Lowers: []string{b.mkdir("l-" + xino)}, Upper: b.mkdir(up), Work: b.mkdir(work), Target: b.mkdir(merged)}
			o.Extra = []string{"xino=" + xino}
			b.mount(o)
			b.write(merged+"/made/up", "")
			b.write(merged+"/tmp/up", "")
			if err := os.Rename(b.path(merged+"/tmp"), b.path(merged+"/renamed")); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"made", "renamed"} {
				b.write("l-"+xino+"/"+name+"/low", "")
			}
			if err := Refresh(t.Context(), o.Target); err != nil {
				t.Fatal(err)
			}
			b.want("renamed", b.list(merged+"/renamed"), "up")
			merges := xino == "off"
			want := map[bool]string{true: "low up", false: "up"}[merges]
			b.want("made, xino="+xino, b.list(merged+"/made"), want)
			origin, err := HasOrigin(b.path(up + "/made"))
			if err != nil || origin != merges {
				t.Errorf("made, xino=%s: origin is %v, %v", xino, origin, err)
			}
		}
	})
}

func TestMarkOpaqueSparesWhatWasMerged(t *testing.T) {
	inEachOnDisk(t, func(t *testing.T, b *box) {
		b.write("upper/whole/up", "")
		b.write("upper/file", "")
		b.write("lower1/part/low", "")
		b.write("lower1/part/changed", "")
		m := b.mount(b.options())
		user := userXattrHere(b)
		if err := os.Chmod(b.path("merged/part/changed"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := m.Unmount(t.Context(), UnmountOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, want := range []int{1, 0} {
			n, merged, err := MarkOpaque(t.Context(), b.path("upper"), user)
			if err != nil || n != want || join(merged) != "part" {
				t.Errorf("marked %d, merged %q, %v", n, merged, err)
			}
		}
		if err := SetOpaque(b.path("upper/part"), user); !errors.Is(err, ErrHasOrigin) {
			t.Errorf("%v", err)
		}
		b.write("lower1/whole/low", "")
		b.mount(b.options())
		b.want("whole", b.list("merged/whole"), "up")
		b.want("part", b.list("merged/part"), "changed low")
	})
}

func TestHealth(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		h, err := CheckHealth(t.Context(), b.path("merged"), nil)
		if err != nil || len(h.Problems) != 1 || h.Depth != 0 {
			t.Errorf("unmounted: %+v %v", h, err)
		}
		b.write("upper/a", "")
		b.write("upper/b/c", "")
		o := b.options("lower1", "lower2")
		m := b.mount(o)
		h, err = CheckHealth(t.Context(), o.Target, &m.Record)
		if err != nil || len(h.Problems) != 0 {
			t.Fatalf("%+v %v", h, err)
		}
		if h.Depth != 1 || h.State != Mounted || !h.Since.Equal(m.Record.MountedAt) {
			t.Errorf("%+v", h)
		}
		if u := h.Upper; u.Entries != 2 || u.MoreEntries || u.Size == 0 || u.Path != o.Upper {
			t.Errorf("%+v", u)
		}
		if n, more, err := countEntries(b.path("upper"), 1); n != 1 || !more || err != nil {
			t.Errorf("%d %v %v", n, more, err)
		}
		if err := os.RemoveAll(b.path("lower2")); err != nil {
			t.Fatal(err)
		}
		h, err = CheckHealth(t.Context(), o.Target, &m.Record)
		if err != nil || len(h.Problems) != 1 {
			t.Fatalf("%+v %v", h, err)
		}
		contains(t, h.Problems[0], "lower 2", b.path("lower2"))
		b.tmpfs("other")
		o = b.options("other")
		o.Upper, o.Work, o.Target = b.mkdir("u2"), b.mkdir("w2"), b.mkdir("m2")
		o.Xino = Off
		b.mount(o)
		h, err = CheckHealth(t.Context(), o.Target, nil)
		if err != nil || len(h.Problems) != 1 {
			t.Fatalf("%+v %v", h, err)
		}
		contains(t, h.Problems[0], "xino=on")
		h, err = CheckHealth(t.Context(), b.path("nope"), nil)
		if err != nil || len(h.Problems) != 1 {
			t.Errorf("%+v %v", h, err)
		}
	})
}
