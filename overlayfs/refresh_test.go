package overlayfs

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRefreshShowsWhatALowerGained(t *testing.T) {
	inEachOnDisk(t, func(t *testing.T, b *box) {
		b.write("lower1/old/f", "1")
		b.mount(b.options("lower1", "lower2"))
		b.hold("merged/old")
		dir, err := os.Open(b.path("merged"))
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		if _, err := dir.Readdirnames(-1); err != nil {
			t.Fatal(err)
		}
		b.want("looked up while absent", b.read("merged/new/f"), "ENOENT")
		b.write("lower1/new/f", "grown")
		b.write("lower2/other/f", "grown")
		b.want("never looked up", b.read("merged/other/f"), "grown")
		b.want("before the refresh", b.read("merged/new/f"), "ENOENT")
		b.refresh()
		b.want("after the refresh", b.read("merged/new/f"), "grown")
		b.want("listing, while the directory is held open", b.list("merged"), "new old other")
		b.want("upper", b.list("upper"), "")
		b.want("old", b.read("merged/old/f"), "1")
	})
}

func TestRefreshWithoutAnUpper(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		o := b.options("lower1", "lower2")
		o.Upper, o.Work = "", ""
		b.mount(o)
		b.want("before", b.read("merged/x"), "ENOENT")
		b.write("lower2/x", "grown")
		b.refresh()
		b.want("after", b.read("merged/x"), "grown")
		if err := os.WriteFile(b.path("merged/y"), nil, 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("the refresh made it writable: %v", err)
		}
	})
}

func TestRefreshKeepsTheFlagsOfTheMount(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		o := b.options()
		b.mount(o)
		before, err := Visible(o.Target)
		if err != nil {
			t.Fatal(err)
		}
		for name, how := range map[string]func(string) error{"fspick": reconfigure, "mount(2)": remount} {
			b.want("before", b.read("merged/"+name), "ENOENT")
			b.write("lower1/"+name, name)
			if err := how(o.Target); err != nil {
				t.Fatal(err)
			}
			b.want("after", b.read("merged/"+name), name)
			after, err := Visible(o.Target)
			if err != nil {
				t.Fatal(err)
			}
			b.want(name, join(after.VFSOptions), join(before.VFSOptions))
		}
	})
}

func TestRefreshOfSomethingElse(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		if err := Refresh(t.Context(), b.path("merged")); !errors.Is(err, ErrNotMounted) {
			t.Errorf("a plain directory: %v", err)
		}
		if err := Refresh(t.Context(), b.path("nope")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("nothing: %v", err)
		}
	})
}

func TestRefreshOnAFullDisk(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		dir := b.mkdir("small")
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "nr_inodes=8"); err != nil {
			t.Fatal(err)
		}
		b.unmountLater(dir)
		o := b.options()
		o.Upper, o.Work = b.mkdir("small/u"), b.mkdir("small/w")
		b.mount(o)
		b.want("before", b.read("merged/x"), "ENOENT")
		b.write("lower1/x", "grown")
		for i := 0; ; i++ {
			if err := os.WriteFile(b.path("merged/fill"+string(rune('a'+i))), nil, 0o644); err != nil {
				break
			}
		}
		err := Refresh(t.Context(), o.Target)
		if !errors.Is(err, ErrListingsStale) || !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%v", err)
		}
		b.want("after", b.read("merged/x"), "grown")
	})
}
