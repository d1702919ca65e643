package overlayfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// object makes a store object like Nix's: nested, and without write permission.
func (b *box) object(dir, content string) {
	b.t.Helper()
	b.write(dir+"/bin/prog", content)
	b.write(dir+"/share/deep/er/file", content)
	b.symlink("bin/prog", dir+"/link")
	b.freeze(dir)
}

func (b *box) freeze(dir string) {
	b.t.Helper()
	err := filepath.WalkDir(b.path(dir), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type()&fs.ModeSymlink == 0 {
			err = os.Chmod(path, map[bool]fs.FileMode{true: 0o555, false: 0o444}[d.IsDir()])
		}
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) remover() *Remover {
	b.t.Helper()
	r, err := NewRemover(b.path("merged"), b.path("upper"))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { r.Close() })
	return r
}

func (b *box) remove(names ...string) []Removal {
	b.t.Helper()
	r := b.remover()
	defer r.Close()
	out, err := r.Remove(b.t.Context(), names...)
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

func TestRemovedCopyShowsTheLowers(t *testing.T) {
	for _, xino := range []string{"on", "off"} {
		t.Run("xino "+xino, func(t *testing.T) {
			inEachOnDisk(t, func(t *testing.T, b *box) {
				b.object("lower2/both", "lower")
				b.write("lower2/file", "lower")
				o := b.options("lower1", "lower2")
				o.Extra = []string{"xino=" + xino}
				// The upper is of a time when no lower had these.
				b.object("upper/both", "upper")
				b.write("upper/file", "upper")
				b.symlink("nowhere", "upper/link")
				b.mount(o)
				b.object("merged/new", "upper")
				b.object("merged/tmp", "upper")
				if err := os.Rename(b.path("merged/tmp"), b.path("merged/moved")); err != nil {
					t.Fatal(err)
				}
				b.object("merged/pure", "upper")
				for _, late := range []string{"new", "moved"} {
					b.object("lower1/"+late, "lower")
				}
				b.symlink("somewhere", "lower1/link")
				b.refresh()
				b.want("both", b.read("merged/both/bin/prog"), "upper")

				names := []string{"both", "file", "link", "new", "moved", "pure", "nothing"}
				for _, res := range b.remove(names...) {
					switch {
					case res.Name == "nothing":
						if !errors.Is(res.Err, ErrNotInUpper) {
							t.Errorf("%s: %v", res.Name, res.Err)
						}
						continue
					case res.Err != nil:
						t.Errorf("%s: %v", res.Name, res.Err)
					case res.LowerShows != (res.Name != "pure"):
						t.Errorf("%s: lower shows is %v", res.Name, res.LowerShows)
					}
					if strings.Contains("both new moved pure", res.Name) && res.Bytes <= 0 {
						t.Errorf("%s: %d bytes", res.Name, res.Bytes)
					}
				}
				b.refresh()
				for _, name := range []string{"both", "new", "moved"} {
					b.want(name, b.read("merged/"+name+"/share/deep/er/file"), "lower")
				}
				b.want("file", b.read("merged/file"), "lower")
				to, _ := os.Readlink(b.path("merged/link"))
				b.want("link", to, "somewhere")
				b.want("pure", b.read("merged/pure/bin/prog"), "ENOENT")
				b.want("upper", b.list("upper"), "")
				b.want("merged", b.list("merged"), "both file link moved new")
				// The name can be used again.
				b.object("merged/pure", "again")
				b.want("again", b.read("merged/pure/bin/prog"), "again")
			})
		})
	}
}

func TestRemovalNeedsNoRefreshForThoseWhoDidNotLook(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		b.object("lower1/obj", "lower")
		b.mount(b.options())
		b.write("merged/x", "")
		b.object("upper/other", "") // not in the way
		if err := SetOpaque(b.mkdir("upper/obj"), userXattrHere(b)); err != nil {
			t.Fatal(err)
		}
		b.write("upper/obj/bin/prog", "upper")
		b.want("before", b.read("merged/obj/bin/prog"), "upper")
		if res := b.remove("obj"); res[0].Err != nil {
			t.Fatal(res[0].Err)
		}
		b.want("after, without a refresh", b.read("merged/obj/bin/prog"), "lower")
	})
}

func userXattrHere(b *box) bool {
	info, err := Visible(b.path("merged"))
	if err != nil {
		b.t.Fatal(err)
	}
	return info.UserXattr()
}

func TestRemovalUnderAProcessThatIsInside(t *testing.T) {
	inEachOnDisk(t, func(t *testing.T, b *box) {
		b.mount(b.options())
		b.object("merged/obj", "upper")
		b.object("lower1/obj", "lower")
		b.refresh()
		b.hold("merged/obj/share/deep")
		f, err := os.Open(b.path("merged/obj/bin/prog"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if res := b.remove("obj"); res[0].Err != nil {
			t.Fatal(res[0].Err)
		}
		b.refresh()
		b.want("prog", b.read("merged/obj/bin/prog"), "lower")
		b.want("file", b.read("merged/obj/share/deep/er/file"), "lower")
		b.want("list", b.list("merged/obj/share"), "deep")
		b.want("upper", b.list("upper"), "")
		buf := make([]byte, 8)
		n, _ := f.Read(buf)
		b.want("the open file", string(buf[:n]), "upper")
	})
}

func TestMergedObjectInUseIsLeftAlone(t *testing.T) {
	inEachOnDisk(t, func(t *testing.T, b *box) {
		for _, o := range []string{"held", "free"} {
			b.object("upper/"+o, "upper")
			b.object("lower1/"+o, "lower")
			b.write("lower1/"+o+"x", "")
		}
		b.mount(b.options())
		before, err := os.Stat(b.path("upper/held"))
		if err != nil {
			t.Fatal(err)
		}
		end := b.hold("merged/held/share/deep")
		b.want("free", b.read("merged/free/bin/prog"), "upper")
		res := b.remove("held", "free")
		if !errors.Is(res[0].Err, ErrInUse) || res[0].Bytes != 0 {
			t.Errorf("held: %+v", res[0])
		}
		if res[1].Err != nil || !res[1].LowerShows || res[1].Bytes == 0 {
			t.Errorf("free: %+v", res[1])
		}
		b.refresh()
		b.want("upper", b.list("upper"), "held")
		b.want("held", b.read("merged/held/bin/prog"), "upper")
		b.want("free", b.read("merged/free/bin/prog"), "lower")
		after, err := os.Stat(b.path("upper/held"))
		if err != nil || !after.ModTime().Equal(before.ModTime()) || !os.SameFile(before, after) {
			t.Errorf("the object was changed: %v", err)
		}
		end()
		if res := b.remove("held"); res[0].Err != nil {
			t.Error(res[0].Err)
		}
		b.refresh()
		b.want("held, later", b.read("merged/held/bin/prog"), "lower")
		b.want("upper, later", b.list("upper"), "")
	})
}

// What the fix for is: the kernel's behaviour when a merged directory that is in use is
// removed. If this fails, the kernel has become better and ErrInUse could go.
func TestKernelAnswersESTALEForAMergedDirectoryRemovedInUse(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		b.write("upper/obj/sub/f", "upper")
		b.write("lower1/obj/sub/f", "lower")
		b.mount(b.options())
		end := b.hold("merged/obj/sub")
		if err := os.RemoveAll(b.path("merged/obj")); err != nil {
			t.Fatal(err)
		}
		if err := RemoveWhiteout(b.path("upper/obj")); err != nil {
			t.Fatal(err)
		}
		b.refresh()
		b.want("in use", b.read("merged/obj/sub/f"), "ESTALE")
		end()
		b.refresh()
		b.want("afterwards", b.read("merged/obj/sub/f"), "lower")
	})
}

func TestInterruptedRemovalIsRepaired(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		b.object("lower1/obj", "lower")
		b.mount(b.options())
		b.object("upper/"+TrashPrefix+"MERGED", "left by a rename in the upper")
		b.object("merged/pure", "x")
		// Killed between the rename and the unlinking of the whiteout.
		if err := os.Rename(b.path("merged/pure"), b.path("merged/"+TrashPrefix+"PURE")); err != nil {
			t.Fatal(err)
		}
		b.symlink("refresh", "merged/"+RefreshPrefix+"LEFT")
		if err := unix.Mknod(b.path("upper/obj"), unix.S_IFCHR, 0); err != nil {
			t.Fatal(err)
		}
		b.refresh()
		b.want("damage", b.read("merged/obj/bin/prog"), "ENOENT")

		white, err := Whiteouts(t.Context(), b.path("upper"))
		if err != nil || join(white) != "obj" {
			t.Fatalf("whiteouts %q, %v", white, err)
		}
		if err := RemoveWhiteout(b.path("upper/obj")); err != nil {
			t.Fatal(err)
		}
		freed, err := b.remover().PurgeLeftovers(t.Context())
		if err != nil || freed == 0 {
			t.Errorf("freed %d, %v", freed, err)
		}
		b.refresh()
		b.want("upper", b.list("upper"), "")
		b.want("obj", b.read("merged/obj/bin/prog"), "lower")
	})
}

func TestRemovingAWhiteoutByName(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		b.object("lower1/obj", "lower")
		b.mount(b.options())
		if err := os.RemoveAll(b.path("merged/obj")); err != nil {
			t.Fatal(err)
		}
		res := b.remove("obj")
		if res[0].Err != nil || !res[0].LowerShows || res[0].Bytes != 0 {
			t.Errorf("%+v", res[0])
		}
		b.refresh()
		b.want("obj", b.read("merged/obj/bin/prog"), "lower")
	})
}

func TestObjectsOnlyInALowerAreNotTouched(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		b.object("lower1/obj", "lower")
		b.write("lower1/file", "lower")
		b.mount(b.options())
		for _, res := range b.remove("obj", "file") {
			if !errors.Is(res.Err, ErrNotInUpper) {
				t.Errorf("%+v", res)
			}
		}
		b.want("upper", b.list("upper"), "")
		b.want("obj", b.read("merged/obj/bin/prog"), "lower")
		for _, bad := range []string{"", ".", "..", "a/b", "a\x00"} {
			if res := b.remove(bad); !errors.Is(res[0].Err, ErrBadPath) {
				t.Errorf("%q: %v", bad, res[0].Err)
			}
		}
	})
}

func TestRemoverWantsTheMountsOwnUpper(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		if _, err := NewRemover(b.path("merged"), b.path("upper")); !errors.Is(err, ErrNotMounted) {
			t.Errorf("unmounted: %v", err)
		}
		m := b.mount(b.options())
		var me *MismatchError
		if _, err := NewRemover(b.path("merged"), b.path("lower2")); !errors.As(err, &me) || me.Kind != WrongUpper {
			t.Errorf("another upper: %v", err)
		}
		r := b.remover()
		if err := m.Unmount(t.Context(), UnmountOptions{}); !errors.Is(err, unix.EBUSY) {
			t.Errorf("while a remover is open: %v", err)
		}
		r.Close()
		if err := m.Unmount(t.Context(), UnmountOptions{}); err != nil {
			t.Error(err)
		}
	})
}

func TestDeepAndWideTreesAreRemoved(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		b.mount(b.options())
		deep := "merged/obj" + strings.Repeat("/d", 3*maxDepth)
		for i := range 1500 {
			b.write(fmt.Sprintf("merged/obj/wide/%d", i), "")
		}
		b.write(deep+"/f", "x")
		b.write("merged/obj/d/d/.deep-1", "a name of the remover's own")
		b.freeze("merged/obj")
		linked := b.write("merged/other", strings.Repeat("x", 1<<20))
		os.Chmod(b.path("merged/obj"), 0o755)
		if err := os.Link(linked, b.path("merged/obj/link")); err != nil {
			t.Fatal(err)
		}
		os.Chmod(b.path("merged/obj"), 0o555)
		res := b.remove("obj")
		if res[0].Err != nil {
			t.Fatal(res[0].Err)
		}
		b.want("upper", b.list("upper"), "other")
		if res[0].Bytes >= 20<<20 || res[0].Bytes == 0 {
			t.Errorf("%d bytes", res[0].Bytes)
		}
	})
}

func TestCancelledRemovalCanBeFinished(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		b.mount(b.options())
		b.object("merged/obj", "x")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		r := b.remover()
		if out, err := r.Remove(ctx, "obj"); !errors.Is(err, context.Canceled) || len(out) != 0 {
			t.Errorf("%v %v", out, err)
		}
		b.want("untouched", b.read("merged/obj/bin/prog"), "x")
		if _, _, err := r.hide(&Removal{Name: "obj"}, TrashPrefix+"X"); err != nil {
			t.Fatal(err)
		}
		b.want("out of sight", b.read("merged/obj/bin/prog"), "ENOENT")
		if _, err := r.PurgeLeftovers(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.want("upper", b.list("upper"), "")
	})
}

// What is moved aside is out of sight, a lower's shows instead, and whoever moved it
// can delete it through the merged directory.
func TestAside(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		b.object("lower1/both", "lower")
		b.mount(b.options())
		b.object("merged/own", "mine")
		b.object("upper/both", "merged from two layers")
		b.mkdir("merged/trash")
		r := b.remover()
		list := []Aside{
			{Removal: Removal{Name: "own"}, To: "trash/1"},
			{Removal: Removal{Name: "nothing"}, To: "trash/2"},
			{Removal: Removal{Name: "both"}, To: "trash/3"},
		}
		r.Aside(t.Context(), list)
		if list[0].Err != nil || list[0].Deleted || !errors.Is(list[1].Err, ErrNotInUpper) || list[2].Err != nil || !list[2].Deleted || list[2].Bytes == 0 {
			t.Errorf("%+v", list)
		}
		if err := r.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.want("own", b.read("merged/own/bin/prog"), "ENOENT")
		b.want("both", b.read("merged/both/bin/prog"), "lower")
		b.want("trash", b.list("merged/trash"), "1")
		if _, err := removeTree(t.Context(), int(r.merged.Fd()), "trash"); err != nil {
			t.Fatal(err)
		}
		b.want("upper", b.list("upper"), "")
	})
}
