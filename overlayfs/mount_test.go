package overlayfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/mount"
	"github.com/strata-nix/strata/internal/testenv"
)

func TestFirstLowerWinsAndWritesGoToTheUpper(t *testing.T) {
	inEachOnDisk(t, func(t *testing.T, b *box) {
		b.mkdir("lower3")
		b.write("lower1/a", "1")
		for _, l := range []string{"lower2", "lower3"} {
			b.write(l+"/a", "shadowed")
			b.write(l+"/b", l)
		}
		b.write("lower3/c", "3")
		o := b.options("lower1", "lower2", "lower3")
		m := b.mount(o)
		b.want("a", b.read("merged/a"), "1")
		b.want("b", b.read("merged/b"), "lower2")
		b.want("c", b.read("merged/c"), "3")
		b.write("merged/new", "u")
		b.want("upper", b.list("upper"), "new")
		info, err := Visible(o.Target)
		if err != nil {
			t.Fatal(err)
		}
		b.want("vfs options", strings.Join(info.VFSOptions[:3], ","), "rw,nosuid,nodev")
		if err := Verify(o.Target, Expected{Lowers: o.Lowers, Upper: o.Upper, Record: &m.Record}); err != nil {
			t.Error(err)
		}
		if err := m.Unmount(t.Context(), UnmountOptions{}); err != nil {
			t.Fatal(err)
		}
		b.want("after unmounting", b.mounts(o.Target), "")
		if err := m.Unmount(t.Context(), UnmountOptions{}); !errors.Is(err, ErrNotMounted) {
			t.Errorf("second unmount: %v", err)
		}
	})
}

// The pattern is the check of local-overlay-store.cc in Nix 2.34.8.
func TestStockNixRecognisesTheMountOfOneLower(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		o := b.options()
		b.mount(o)
		table, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			t.Fatal(err)
		}
		line := regexp.MustCompile(`(^|\n)overlay ` + o.Target + ` .*(\n|$)`).FindString(string(table))
		for option, value := range map[string]string{"lowerdir": o.Lowers[0], "upperdir": o.Upper} {
			if !regexp.MustCompile(`\b` + option + "=" + value + "( |,)").MatchString(line) {
				t.Errorf("no %s=%s in %q", option, value, line)
			}
		}
	})
}

// oddNames are file names that break naive quoting.
var oddNames = []string{
	"blank in name", "colon:name", "comma,name", `back\slash`, `back\:colon`, "new\nline", "tab\tname", "equals=name",
	"ünïcødé-ストア", `\040`, "trailing\\", "#hash", "'quote\"", "..dots", "-dash",
	strings.Repeat("long/", 60) + "end",
}

func TestOddPaths(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		for i, name := range oddNames {
			t.Run(fmt.Sprintf("%.20q", name), func(t *testing.T) {
				base := fmt.Sprintf("odd%d", i)
				o := Options{
					Upper: b.mkdir(filepath.Join(base, "u", name)), Work: b.mkdir(filepath.Join(base, "w", name)),
					Target: b.mkdir(filepath.Join(base, "m", name)),
					Lowers: []string{b.mkdir(filepath.Join(base, "l", name))},
				}
				checkOdd(t, o)
				o.Lowers = append(o.Lowers, b.mkdir(filepath.Join(base, "l2", name)))
				checkOdd(t, o)
			})
		}
	})
}

func checkOdd(t *testing.T, o Options) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(o.Lowers[len(o.Lowers)-1], "f"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	m, err := Mount(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	checkOddMount(t, o, m)
}

func checkOddMount(t *testing.T, o Options, m *OverlayMount) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(o.Target, "f")); err != nil {
		t.Error(err)
	}
	if err := Verify(o.Target, Expected{Lowers: o.Lowers, Upper: o.Upper, Record: &m.Record}); err != nil {
		t.Error(err)
	}
	wrong := append([]string(nil), o.Lowers...)
	wrong[0] = o.Work
	if err := Verify(o.Target, Expected{Lowers: wrong, Upper: o.Upper}); err == nil {
		t.Error("a wrong lower is accepted")
	}
	if err := Verify(o.Target, Expected{Lowers: o.Lowers, Upper: o.Work}); err == nil {
		t.Error("a wrong upper is accepted")
	}
	if err := m.Unmount(t.Context(), UnmountOptions{}); err != nil {
		t.Error(err)
	}
}

func TestPathsThroughSymlinksAndRelativeOnes(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		b.mkdir("real/store")
		b.write("real/store/f", "x")
		b.symlink("real", "link")
		o := b.options("link/store")
		m := b.mount(o)
		for _, lower := range []string{b.path("real/store"), b.path("link/store"), b.path("link/../real/store/")} {
			if err := Verify(o.Target, Expected{Lowers: []string{lower}, Upper: o.Upper}); err != nil {
				t.Errorf("%s: %v", lower, err)
			}
		}
		b.symlink("merged", "link-to-merged")
		if err := Verify(b.path("link-to-merged"), Expected{Lowers: o.Lowers, Upper: o.Upper, Record: &m.Record}); err != nil {
			t.Error(err)
		}
		if err := m.Unmount(t.Context(), UnmountOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Chdir(b.dir)
		m = b.mount(Options{Lowers: []string{"link/store", "lower2"}, Upper: "upper", Work: "./work", Target: "merged"})
		if err := Verify("merged", Expected{Lowers: []string{"real/store", b.path("lower2")}, Upper: b.path("upper"), Record: &m.Record}); err != nil {
			t.Error(err)
		}
		b.want("target", m.Record.Target, b.path("merged"))
	})
}

func TestManyLowersKeepTheirOrder(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		for _, n := range []int{3, 65, MaxLowers} {
			t.Run(fmt.Sprint(n), func(t *testing.T) {
				o := b.options()
				o.Lowers = nil
				for i := range n {
					dir := fmt.Sprintf("%d/%s/%d", n, strings.Repeat("x", 200), i)
					b.write(dir+"/first", fmt.Sprint(i))
					b.write(fmt.Sprintf("%s/only-%d", dir, i), "")
					o.Lowers = append(o.Lowers, b.path(dir))
				}
				m := b.mount(o)
				b.want("first", b.read("merged/first"), "0")
				b.want("last", b.read(fmt.Sprintf("merged/only-%d", n-1)), "")
				want := Expected{Lowers: o.Lowers, Upper: o.Upper, Record: &m.Record}
				if err := Verify(o.Target, want); err != nil {
					t.Error(err)
				}
				want.Lowers = append([]string{o.Lowers[1], o.Lowers[0]}, o.Lowers[2:]...)
				var wrong *MismatchError
				if err := Verify(o.Target, want); !errors.As(err, &wrong) || wrong.Kind != WrongLowers {
					t.Errorf("order is not checked: %v", err)
				}
				if advised := len(m.Warnings) == 0; advised != (n <= AdvisedLowers) {
					t.Errorf("warnings for %d lowers: %q", n, m.Warnings)
				}
				if err := m.Unmount(t.Context(), UnmountOptions{}); err != nil {
					t.Fatal(err)
				}
			})
		}
	})
}

func TestWithoutAnUpperNothingCanBeWritten(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		b.write("lower1/a", "1")
		b.write("lower2/b", "2")
		for _, lowers := range [][]string{{"lower1"}, {"lower1", "lower2"}} {
			o := b.options(lowers...)
			o.Upper, o.Work = "", ""
			m := b.mount(o)
			b.want("a", b.read("merged/a"), "1")
			if err := os.WriteFile(b.path("merged/new"), nil, 0o644); !errors.Is(err, unix.EROFS) {
				t.Errorf("writing: %v", err)
			}
			want := Expected{Lowers: o.Lowers, Record: &m.Record}
			if err := Verify(o.Target, want); err != nil {
				t.Error(err)
			}
			if err := m.Refresh(t.Context()); err != nil {
				t.Error(err)
			}
			want.Lowers = []string{b.path("work")}
			if err := Verify(o.Target, want); err == nil {
				t.Error("another lower is accepted")
			}
			if err := m.Unmount(t.Context(), UnmountOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(b.path("lower1/new"), nil, 0o644); err != nil {
			t.Errorf("the lower itself became read-only: %v", err)
		}
	})
}

func TestReadOnlyWithAnUpper(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		b.write("upper/u", "u")
		o := b.options()
		o.ReadOnly = true
		m := b.mount(o)
		b.want("u", b.read("merged/u"), "u")
		if err := os.WriteFile(b.path("merged/new"), nil, 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("writing: %v", err)
		}
		if err := m.Refresh(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestPreconditionsAreNamed(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		b.write("file", "")
		b.mkdir("lower1/inside/deep")
		b.mkdir("upper/inside")
		b.write("used/x", "precious")
		b.mkdir("used/work")
		b.tmpfs("other")
		b.mkdir("other/work")
		b.bind(b.dir, b.mkdir("alias"))
		b.mkdir("merged/below")
		many := make([]string, MaxLowers+1)
		for i := range many {
			many[i] = b.path("lower1")
		}
		type change func(o *Options)
		tests := []struct {
			name   string
			change change
			err    error
			says   string
		}{
			{"no lowers", func(o *Options) { o.Lowers = nil }, ErrNoLowers, "lower"},
			{"too many lowers", func(o *Options) { o.Lowers = many }, ErrTooManyLowers, "501"},
			{"lower missing", func(o *Options) { o.Lowers[0] = b.path("nope") }, ErrMissing, "lower 1"},
			{"lower below a file", func(o *Options) { o.Lowers[0] = b.path("file/x") }, ErrMissing, "file/x"},
			{"lower is a file", func(o *Options) { o.Lowers[0] = b.path("file") }, ErrNotDirectory, "lower 1"},
			{"lower without name", func(o *Options) { o.Lowers[0] = "" }, ErrBadPath, "lower 1"},
			{"lower with zero", func(o *Options) { o.Lowers[0] = "a\x00b" }, ErrBadPath, "lower 1"},
			{"target missing", func(o *Options) { o.Target = b.path("nope") }, ErrMissing, "target"},
			{"target is a file", func(o *Options) { o.Target = b.path("file") }, ErrNotDirectory, "target"},
			{"work missing", func(o *Options) { o.Work = b.path("nope") }, ErrMissing, "work"},
			{"upper alone", func(o *Options) { o.Work = "" }, ErrUpperWithoutWork, "together"},
			{"two file systems", func(o *Options) { o.Work = b.path("other/work") }, ErrDifferentFS, "other/work"},
			{"two mounts", func(o *Options) { o.Work = b.path("alias/work") }, ErrDifferentFS, "two mounts"},
			{"work in use for other things", func(o *Options) { o.Work = b.path("used") }, ErrWorkNotEmpty, `"x"`},
			{"work is upper", func(o *Options) { o.Work = o.Upper }, ErrOverlap, "same directory"},
			{"work inside upper", func(o *Options) { o.Work = b.path("upper/inside") }, ErrOverlap, "inside"},
			{"upper inside lower", func(o *Options) { o.Upper = b.path("lower1/inside") }, ErrOverlap, "inside"},
			{"lower inside upper", func(o *Options) { o.Lowers[0] = b.path("upper/inside") }, ErrOverlap, "inside"},
			{"lower twice", func(o *Options) { o.Lowers = append(o.Lowers, o.Lowers[0]) }, ErrOverlap, "same directory"},
			{"lower twice by another mount", func(o *Options) { o.Lowers = append(o.Lowers, b.path("alias/lower1")) }, ErrOverlap, "same"},
			{"lower inside lower", func(o *Options) { o.Lowers = append(o.Lowers, b.path("lower1/inside/deep")) }, ErrOverlap, "inside"},
			{"lower inside lower by another mount", func(o *Options) { o.Lowers = append(o.Lowers, b.path("alias/lower1/inside")) }, ErrOverlap, "bind mount"},
			{"upper below target", func(o *Options) { o.Upper = b.path("merged/below") }, ErrOverlap, "hide"},
			{"upper on proc", func(o *Options) { o.Upper, o.Work = "/proc/self/task", "/proc/self/fd" }, ErrUnfitUpper, "proc"},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				o := b.options()
				tt.change(&o)
				_, err := Mount(t.Context(), o)
				if !errors.Is(err, tt.err) {
					t.Fatalf("got %v, want %v", err, tt.err)
				}
				contains(t, err.Error(), tt.says)
				if _, statErr := os.Stat(b.path("used/x")); statErr != nil {
					t.Error("the work directory of others was emptied")
				}
			})
		}
		b.want("mounted after all", b.mounts(b.path("merged")), "")
	})
}

func TestUnfitUppers(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		b.mount(b.options())
		o := Options{Lowers: []string{b.path("lower2")}, Upper: b.mkdir("merged/u"), Work: b.mkdir("merged/w"), Target: b.mkdir("m2")}
		_, err := Mount(t.Context(), o)
		if !errors.Is(err, ErrUnfitUpper) {
			t.Fatal(err)
		}
		contains(t, err.Error(), "another overlay")

		b.tmpfs("ro")
		o.Upper, o.Work = b.mkdir("ro/u"), b.mkdir("ro/w")
		if err := unix.Mount("", b.path("ro"), "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		_, err = Mount(t.Context(), o)
		if !errors.Is(err, ErrUnfitUpper) {
			t.Fatal(err)
		}
		contains(t, err.Error(), "read-only")
	})
}

func TestUpperInUseIsRefused(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		m := b.mount(b.options())
		o := b.options("lower2")
		o.Target = b.mkdir("m2")
		_, err := Mount(t.Context(), o)
		if !errors.Is(err, ErrUpperInUse) {
			t.Fatal(err)
		}
		contains(t, err.Error(), b.path("merged"))
		if err := m.Unmount(t.Context(), UnmountOptions{}); err != nil {
			t.Fatal(err)
		}
		b.mount(o) // and with another list of lowers
	})
}

func TestNestedTooDeep(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		lower := b.path("lower1")
		for i := range 3 {
			o := Options{Lowers: []string{lower, b.mkdir(fmt.Sprint("x", i))}, Target: b.mkdir(fmt.Sprint("m", i))}
			_, err := Mount(t.Context(), o)
			if i < 2 && err != nil {
				t.Fatal(err)
			}
			if i == 2 {
				if !errors.Is(err, ErrNestedTooDeep) {
					t.Fatal(err)
				}
				contains(t, err.Error(), lower)
				return
			}
			b.unmountLater(o.Target)
			lower = o.Target
		}
	})
}

func TestRefusedParameterIsNamedWithTheKernelsWords(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		o := b.options()
		o.Extra = []string{"bogus=1"}
		_, err := Mount(t.Context(), o)
		var ce *ConfigError
		if !errors.As(err, &ce) || ce.Key != "bogus" || len(ce.Said) == 0 {
			t.Fatalf("%#v", err)
		}
		contains(t, err.Error(), "bogus", "kernel: ", o.Target)
	})
}

func TestExtraOverridesTheDefaults(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		b.tmpfs("lower2")
		o := b.options("lower1", "lower2")
		o.Extra = []string{"xino=auto", "volatile"}
		b.mount(o)
		info, err := Visible(o.Target)
		if err != nil {
			t.Fatal(err)
		}
		// Newer kernels show it as fsync=volatile.
		if !info.Has("volatile") && !info.Has("fsync=volatile") || info.Has("xino=on") {
			t.Errorf("options %v", info.Options)
		}
	})
}

func TestRecordIsKnownBeforeTheMountIsVisible(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		o := b.options()
		stop := errors.New("disk full")
		o.BeforeAttach = func(r Record) error {
			b.want("mounted early", b.mounts(o.Target), "")
			return stop
		}
		if _, err := Mount(t.Context(), o); !errors.Is(err, stop) {
			t.Fatal(err)
		}
		b.want("mounted after all", b.mounts(o.Target), "")
		var early Record
		o.BeforeAttach = func(r Record) error { early = r; return nil }
		b.mount(o)
		if state, err := early.Recognise(); state != Mounted {
			t.Errorf("%v %v", state, err)
		}
	})
}

func TestChoiceOfMarks(t *testing.T) {
	inEachOnDisk(t, func(t *testing.T, b *box) {
		initial, err := mount.InitialUserNamespace()
		if err != nil {
			t.Fatal(err)
		}
		b.mount(b.options())
		info, err := Visible(b.path("merged"))
		if err != nil {
			t.Fatal(err)
		}
		if info.UserXattr() == initial {
			t.Errorf("userxattr is %v", info.UserXattr())
		}
		// An upper keeps the kind of marks that it began with.
		o := b.options("lower2")
		o.Upper, o.Work, o.Target = b.mkdir("u2"), b.mkdir("w2"), b.mkdir("m2")
		if err := unix.Setxattr(o.Upper, "user.overlay.impure", []byte("y"), 0); err != nil {
			t.Fatal(err)
		}
		b.mount(o)
		if info, err = Visible(o.Target); err != nil || !info.UserXattr() {
			t.Errorf("userxattr is %v, %v", info.UserXattr(), err)
		}
	})
}

func TestTrustedMarksInAUserNamespaceAreRefused(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		initial, err := mount.InitialUserNamespace()
		if err != nil {
			t.Fatal(err)
		}
		o := b.options()
		o.UserXattr = Off
		m, err := Mount(t.Context(), o)
		if initial != (err == nil) || !initial && !errors.Is(err, ErrUnfitUpper) {
			t.Errorf("%v", err)
		}
		if m != nil {
			b.unmountLater(o.Target)
		}
	})
}

func TestOrdinaryUserIsToldWhatItTakes(t *testing.T) {
	if !testenv.Unprivileged(t) {
		return
	}
	dir := testenv.Scratch(t)
	var names []string
	for _, n := range []string{"l", "u", "w", "m"} {
		names = append(names, filepath.Join(dir, n))
		if err := os.Mkdir(filepath.Join(dir, n), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	_, err := Mount(t.Context(), Options{Lowers: names[:1], Upper: names[1], Work: names[2], Target: names[3]})
	if !errors.Is(err, unix.EPERM) {
		t.Fatal(err)
	}
	contains(t, err.Error(), "user namespace")
}

// Kernels before 6.7 have to be told all lowers at once, those before 6.5
// through mount(2). Today's kernels still take both.
func TestOldMountInterface(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		for i, name := range oddNames {
			base := fmt.Sprintf("odd%d", i)
			o := Options{Target: b.mkdir(base + "/m/" + name), Upper: b.mkdir(base + "/u/" + name), Work: b.mkdir(base + "/w/" + name)}
			o.Lowers = []string{b.mkdir(base + "/1/" + name), b.mkdir(base + "/2/" + name)}
			b.write(base+"/2/"+name+"/f", "")
			userXattr, err := o.userXattr()
			if err != nil {
				t.Fatal(err)
			}
			ls, err := openLayers(o)
			if err != nil {
				t.Fatal(err)
			}
			m, err := ls.mountOldWay(t.Context(), o, userXattr)
			ls.close()
			if err != nil {
				t.Errorf("%q: %v", name, err)
				continue
			}
			checkOddMount(t, o, m)
		}
		o := b.options("lower1", "lower2")
		ls, err := openLayers(o)
		if err != nil {
			t.Fatal(err)
		}
		defer ls.close()
		c, err := mount.Open(Type)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := ls.joinLowers(c); err != nil {
			t.Error(err)
		}
		for i, c := range []string{"y", "z"} { // each fits into a path, both not into a page
			o.Lowers[i] = b.mkdir(strings.Repeat(strings.Repeat(c, 200)+"/", 15))
		}
		long, err := openLayers(o)
		if err != nil {
			t.Fatal(err)
		}
		defer long.close()
		if _, err := long.mountOldWay(t.Context(), o, false); !errors.Is(err, ErrPathTooLong) {
			t.Errorf("longer than a page: %v", err)
		}
	})
}

func TestCancelledMountLeavesNothing(t *testing.T) {
	inEach(t, func(t *testing.T, b *box) {
		ctx, cancel := contextWithCancel(t)
		o := b.options()
		o.BeforeAttach = func(Record) error { cancel(); return nil }
		if _, err := Mount(ctx, o); !errors.Is(err, ctx.Err()) || ctx.Err() == nil {
			t.Errorf("%v", err)
		}
		b.want("mounted", b.mounts(o.Target), "")
	})
}
