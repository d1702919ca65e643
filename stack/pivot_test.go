package stack

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/pivot"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// lowerOf parses a lower.
func lowerOf(t *testing.T, text string) Lower {
	t.Helper()
	l, err := ParseLower(text)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// program is an object with a program in it that copies its input.
func program(t *testing.T, name string, refs ...storepath.Path) storetest.Object {
	t.Helper()
	code, err := os.ReadFile("/bin/cat")
	if err != nil {
		t.Fatal(err)
	}
	return storetest.Tree(t, storepath.DefaultDir, name, map[string]string{"bin/" + name: string(code), "text": "text of " + name + "\n"}, refs...)
}

// running is a program that runs out of the merged store, with its directory and a file of it
// open.
type running struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func runFrom(t *testing.T, s *Stack, o storetest.Object) *running {
	t.Helper()
	at := filepath.Join(s.Config.Mount, o.Path().Base())
	cmd := exec.Command(filepath.Join(at, "bin", o.Path().Name()))
	cmd.Dir = at
	text, err := os.Open(filepath.Join(at, "text"))
	if err != nil {
		t.Fatal(err)
	}
	defer text.Close()
	cmd.ExtraFiles = []*os.File{text}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, cmd: cmd, in: in, out: bufio.NewReader(out)}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	r.works()
	return r
}

// works sees that the program runs, and has what it has open.
func (r *running) works() {
	r.t.Helper()
	if _, err := io.WriteString(r.in, "hello\n"); err != nil {
		r.t.Error(err)
	}
	if line, err := r.out.ReadString('\n'); line != "hello\n" {
		r.t.Errorf("it answers %q: %v", line, err)
	}
	proc := fmt.Sprintf("/proc/%d", r.cmd.Process.Pid)
	for _, file := range []string{"fd/3", "cwd/text"} {
		if text, err := os.ReadFile(filepath.Join(proc, file)); !strings.HasPrefix(string(text), "text of ") {
			r.t.Errorf("%s: %q, %v", file, text, err)
		}
	}
}

func (r *running) end() {
	r.t.Helper()
	if err := errors.Join(r.in.Close(), r.cmd.Wait()); err != nil {
		r.t.Error(err)
	}
}

// sound sees that everything that is valid in the upper's database is there with its hash, that
// nothing is hidden and that nothing lies about.
func sound(t *testing.T, s *Stack) {
	t.Helper()
	db := s.Store.DB()
	if damages, err := db.Check(t.Context(), nixdb.Thorough); err != nil || len(damages) > 0 {
		t.Errorf("database: %v, %v", damages, err)
	}
	for info, err := range db.AllPathInfos(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		h := nixhash.SHA256.New()
		if err := nar.Dump(t.Context(), h, filepath.Join(s.Config.Mount, info.Path.Base())); err != nil {
			t.Error(err)
		} else if got := nixhash.Sum(nixhash.SHA256, h); got != info.NarHash {
			t.Errorf("%s has the hash %s, want %s", info.Path, got, info.NarHash)
		}
	}
	for _, l := range s.lowers {
		for p, err := range l.(store.Lister).AllPaths(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Lstat(filepath.Join(s.Config.Mount, p.Base())); err != nil {
				t.Errorf("hidden: %v", err)
			}
		}
	}
	white, err := overlayfs.Whiteouts(t.Context(), s.Config.Upper.Layer)
	if err != nil || len(white) > 0 {
		t.Errorf("whiteouts: %q, %v", white, err)
	}
	if st := s.Status(t.Context()); len(st.Problems) > 0 || !st.Mounted {
		t.Errorf("%t, %q", st.Mounted, st.Problems)
	}
}

func nothingAside(t *testing.T, c *Config) {
	t.Helper()
	for _, path := range []string{c.journalPath(), c.stagePath()} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
}

// inLayer lists the names of objects in the upper layer.
func inLayer(t *testing.T, c *Config) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(c.Upper.Layer)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if p, err := storepath.ParseBase(e.Name()); err == nil {
			names = append(names, p.Name())
		}
	}
	slices.Sort(names)
	return names
}

// releases are an old release with a program, a new one without, and an upper that leans on the
// old.
type releases struct {
	libc, tool, fresh, mine, dup storetest.Object
	old, next                    string
}

func newRelease(t *testing.T, w *world) *releases {
	r := &releases{libc: object(t, "libc"), dup: program(t, "dup"), fresh: object(t, "fresh")}
	r.tool = program(t, "tool", r.libc.Path())
	r.mine = program(t, "mine", r.tool.Path())
	r.old = w.lower(t, "old", r.libc, r.tool)
	r.next = w.lower(t, "next", r.fresh, r.dup)
	return r
}

// fill adds what the upper has.
func (r *releases) fill(t *testing.T, s *Stack) { addTo(t, s.Store, r.mine, r.dup) }

// moved sees that the upper is made for the new release.
func (r *releases) moved(t *testing.T, s *Stack) {
	t.Helper()
	for _, o := range []storetest.Object{r.libc, r.tool, r.fresh, r.mine, r.dup} {
		has(t, s, o)
	}
	if got := inLayer(t, &s.Config); !slices.Equal(got, []string{"libc", "mine", "tool"}) {
		t.Errorf("the layer holds %q", got)
	}
	sound(t, s)
	made, err := ReadMade(s.Config.Upper.Dir)
	if err != nil || len(made.Lowers) != 1 || made.Lowers[0].Given != r.next {
		t.Errorf("made for %+v, %v", made, err)
	}
}

// Programs run from lowers and from the upper, and clients are served, while the lowers change.
func TestPivotUnderRunningPrograms(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		r := newRelease(t, w)
		s := w.up(t, w.config(t, r.old))
		r.fill(t, s)
		view, err := s.Store.Override(map[string]string{"cores": "2"}) // as a client has that is connected
		if err != nil {
			t.Fatal(err)
		}
		paused := 0
		s.Serving(func(context.Context) (func(), error) { paused++; return func() { paused-- }, nil })
		fromLower, fromUpper, fromDup := runFrom(t, s, r.tool), runFrom(t, s, r.mine), runFrom(t, s, r.dup)

		dry, err := s.Pivot(t.Context(), PivotOptions{Lowers: []Lower{lowerOf(t, r.next)}, DryRun: true})
		if err != nil || dry.Done || dry.Plan.Copied.Objects != 2 || dry.Plan.Duplicates.Objects != 1 {
			t.Fatalf("%+v, %v", dry, err)
		}
		has(t, s, r.tool)
		nothingAside(t, &s.Config)

		res, err := s.Pivot(t.Context(), PivotOptions{Lowers: []Lower{lowerOf(t, r.next)}})
		if err != nil || !res.Done || len(res.StillUsed) == 0 || paused != 0 {
			t.Fatalf("%+v, %v, %d", res, err, paused)
		}
		r.moved(t, s)
		for _, p := range []*running{fromLower, fromUpper, fromDup} {
			p.works()
		}
		// What runs over the old mount cannot write to the upper any more.
		cwd := fmt.Sprintf("/proc/%d/cwd", fromUpper.cmd.Process.Pid)
		if err := os.Mkdir(filepath.Join(cwd, "x"), 0o755); !errors.Is(err, unix.EROFS) {
			t.Errorf("written through the old mount: %v", err)
		}
		valid, err := view.ValidPaths(t.Context(), []storepath.Path{r.fresh.Path(), r.tool.Path()})
		if err != nil || len(valid) != 2 {
			t.Errorf("a client that was connected before sees %v, %v", valid, err)
		}
		addTo(t, s.Store, object(t, "later", r.fresh.Path()))
		again := runFrom(t, s, r.tool)

		for _, p := range []*running{fromLower, fromUpper, fromDup} {
			p.end()
		}
		// And back, one lower more.
		res, err = s.Pivot(t.Context(), PivotOptions{Lowers: []Lower{lowerOf(t, r.old), lowerOf(t, r.next)}})
		if err != nil || !res.Done {
			t.Fatalf("%+v, %v", res, err)
		}
		again.works()
		again.end()
		if got := inLayer(t, &s.Config); !slices.Equal(got, []string{"later", "mine"}) {
			t.Errorf("the layer holds %q", got)
		}
		sound(t, s)
		w.takeDown(t, s)
		c := s.Config
		s = w.up(t, c)
		sound(t, s)
		nothingAside(t, &s.Config)
		w.takeDown(t, s)
	})
}

// Nobody may be writing when the old mount goes.
func TestPivotWaitsForNoWriter(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		r := newRelease(t, w)
		s := w.up(t, w.config(t, r.old))
		r.fill(t, s)
		writer, err := os.Create(filepath.Join(s.Config.Mount, "x"))
		if err != nil {
			t.Fatal(err)
		}
		defer writer.Close()
		o := PivotOptions{Lowers: []Lower{lowerOf(t, r.next)}}
		if _, err := s.Pivot(t.Context(), o); !errors.Is(err, overlayfs.ErrWritten) {
			t.Fatalf("%v", err)
		}
		if _, err := writer.WriteString("x"); err != nil {
			t.Error(err)
		}
		nothingAside(t, &s.Config)
		has(t, s, r.tool)
		busy := errors.New("busy")
		s.Serving(func(context.Context) (func(), error) { return nil, busy })
		if _, err := s.Pivot(t.Context(), o); !errors.Is(err, busy) {
			t.Errorf("%v", err)
		}
		nothingAside(t, &s.Config)
		s.Serving(nil)
		if err := errors.Join(writer.Close(), os.Remove(writer.Name())); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Pivot(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		r.moved(t, s)
		w.takeDown(t, s)
	})
}

// The directory of a lower is replaced while the stack is up: what it had still shows.
func TestPivotOverReplacedDirectory(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		r := newRelease(t, w)
		s := w.up(t, w.config(t, r.old))
		r.fill(t, s)
		if err := errors.Join(os.Rename(r.old, r.old+".gone"), os.Rename(r.next, r.old)); err != nil {
			t.Fatal(err)
		}
		r.next = r.old
		res, err := s.Pivot(t.Context(), PivotOptions{})
		if err != nil || res.Plan.Copied.Objects != 2 || res.Plan.Copies[0].From != mountedStore {
			t.Fatalf("%+v, %v", res, err)
		}
		r.moved(t, s)
		nothingAside(t, &s.Config)
		if res, err := s.Pivot(t.Context(), PivotOptions{}); err != nil || res.Plan != nil {
			t.Errorf("once more: %+v, %v", res, err)
		}
		w.takeDown(t, s)
	})
}

// A stack that comes up over other lowers moves its upper to them, or refuses.
func TestUpOverOtherLowers(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		r := newRelease(t, w)
		c := w.config(t, r.old)
		s := w.up(t, c)
		r.fill(t, s)
		w.takeDown(t, s)

		// A lower that grew is no other.
		w.lower(t, "old", object(t, "grown"))
		c.OnLowerChange = RefuseOnChange
		s = w.up(t, c)
		w.takeDown(t, s)

		c.Lowers = []Lower{lowerOf(t, r.next)}
		var changed *LowersChangedError
		if _, err := Assemble(t.Context(), resolved(t, c), parts()); !errors.As(err, &changed) || len(changed.Changes) != 2 {
			t.Fatalf("%v", err)
		}
		w.nothingStays(t)
		c.OnLowerChange = PivotOnChange
		s = w.up(t, c)
		r.moved(t, s)
		nothingAside(t, &s.Config)
		w.takeDown(t, s)
		made := stamp(t, madePath(w.path("upper")))
		s = w.up(t, c)
		w.takeDown(t, s)
		if now := stamp(t, madePath(w.path("upper"))); now != made {
			t.Error("what did not change was written again")
		}
	})
}

func stamp(t *testing.T, path string) time.Time {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.ModTime()
}

// An upper over a release that is gone: nothing is lost silently, and what is missing can be taken
// from elsewhere, or dropped.
func TestUpWhenTheOldReleaseIsGone(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		r := newRelease(t, w)
		c := w.config(t, r.old)
		s := w.up(t, c)
		r.fill(t, s)
		w.takeDown(t, s)
		aside := w.path("aside")
		if err := errors.Join(os.Rename(r.old, aside), os.Rename(r.next, r.old)); err != nil {
			t.Fatal(err)
		}
		r.next = r.old
		for range 2 {
			_, err := Assemble(t.Context(), resolved(t, c), parts())
			var missing *pivot.MissingError
			if !errors.As(err, &missing) || len(missing.Missing) != 2 || !errors.Is(err, ErrLower) {
				t.Fatalf("%v", err)
			}
			w.nothingStays(t)
			nothingAside(t, &Config{Upper: resolved(t, c).Upper})
			// Without a record it is the same: as of an upper that another program made.
			if err := os.Remove(madePath(w.path("upper"))); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
		}
		o := PivotOptions{DryRun: true, DropMissing: true}
		res, err := MoveUpper(t.Context(), resolved(t, c), parts(), o)
		if err != nil || len(res.Plan.Missing) != 2 || res.Plan.Removed.Objects != 1 {
			t.Fatalf("%+v, %v", res, err)
		}
		o = PivotOptions{Old: []Lower{lowerOf(t, aside)}}
		if res, err = MoveUpper(t.Context(), resolved(t, c), parts(), o); err != nil || res.Plan.Copied.Objects != 2 {
			t.Fatalf("%+v, %v", res, err)
		}
		w.nothingStays(t)
		s = w.up(t, c)
		r.moved(t, s)
		w.takeDown(t, s)
	})
}

// A pivot without a stack that is interrupted can be gone on with, or undone.
func TestMoveUpperInterrupted(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		r := newRelease(t, w)
		c := w.config(t, r.old)
		s := w.up(t, c)
		r.fill(t, s)
		if _, err := MoveUpper(t.Context(), resolved(t, c), parts(), PivotOptions{Lowers: []Lower{lowerOf(t, r.next)}}); !errors.Is(err, ErrInUse) {
			t.Errorf("while it is up: %v", err)
		}
		w.takeDown(t, s)
		if _, err := ContinuePivot(t.Context(), resolved(t, c), parts(), PivotOptions{}); !errors.Is(err, pivot.ErrNoJob) {
			t.Errorf("%v", err)
		}
		begin := func() {
			p := w.child(t, "move", 3)
			if p == "" {
				t.Fatal("not killed")
			}
			if h, err := pivot.Peek(w.path("upper/pivot.journal")); err != nil || h.Phase != pivot.Planned {
				t.Fatalf("%s: %+v, %v", p, h, err)
			}
		}
		begin()
		if err := RollBackPivot(t.Context(), resolved(t, c), parts()); err != nil {
			t.Fatal(err)
		}
		nothingAside(t, &Config{Upper: resolved(t, c).Upper})
		begin()
		res, err := ContinuePivot(t.Context(), resolved(t, c), parts(), PivotOptions{})
		if err != nil || !res.Done {
			t.Fatalf("%+v, %v", res, err)
		}
		c.Lowers = []Lower{lowerOf(t, r.next)}
		s = w.up(t, c)
		r.moved(t, s)
		w.takeDown(t, s)
	})
}

// The process that serves the stack does it for whoever asks.
func TestPivotAsked(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		r := newRelease(t, w)
		s := w.up(t, w.config(t, r.old))
		r.fill(t, s)
		res, err := s.run.Pivot(t.Context(), PivotOptions{Lowers: []Lower{lowerOf(t, r.next)}, DryRun: true})
		if err != nil || res.Plan.Copied.Objects != 2 || res.Stack != "upper" {
			t.Fatalf("%+v, %v", res, err)
		}
		if text, err := json.Marshal(res); err != nil || !strings.Contains(string(text), `"changes":[{`) {
			t.Errorf("%s, %v", text, err)
		}
		if _, err := s.run.Pivot(t.Context(), PivotOptions{Lowers: []Lower{{Path: w.path("nowhere")}}}); err == nil || !strings.Contains(err.Error(), "nowhere") {
			t.Errorf("%v", err)
		}
		if res, err = s.run.Pivot(t.Context(), PivotOptions{Lowers: []Lower{lowerOf(t, r.next)}}); err != nil || !res.Done {
			t.Fatalf("%+v, %v", res, err)
		}
		r.moved(t, s)
		w.takeDown(t, s)
	})
}

// A lower that the stack's own mounts hide stays where it was kept; one that they hide and that was
// not there before cannot be seen.
func TestPivotBesideHiddenLower(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		a, b := object(t, "a"), object(t, "b")
		root, plain := w.lower(t, "root", a), w.lower(t, "plain", b)
		s := w.up(t, w.config(t, root))
		addTo(t, s.Store, object(t, "mine", a.Path()))
		if res, err := s.Pivot(t.Context(), PivotOptions{}); err != nil || res.Plan != nil {
			t.Fatalf("nothing changed: %+v, %v", res, err)
		}
		res, err := s.Pivot(t.Context(), PivotOptions{Lowers: []Lower{lowerOf(t, plain), lowerOf(t, root)}})
		if err != nil || res.Plan.Copied.Objects != 0 {
			t.Fatalf("%+v, %v", res, err)
		}
		has(t, s, a)
		has(t, s, b)
		if got := w.mounts(t); !slices.Contains(got, "upper/lowers/root/store") {
			t.Errorf("mounted: %q", got)
		}
		if res, err = s.Pivot(t.Context(), PivotOptions{Lowers: []Lower{lowerOf(t, plain)}}); err != nil || res.Plan.Copied.Objects != 1 {
			t.Fatalf("%+v, %v", res, err)
		}
		sound(t, s)
		if got := w.mounts(t); slices.Contains(got, "upper/lowers/root/store") {
			t.Errorf("mounted: %q", got)
		}
		var le *LowerError
		if _, err := s.Pivot(t.Context(), PivotOptions{Lowers: []Lower{lowerOf(t, root)}}); !errors.As(err, &le) || le.Lower != "root" {
			t.Errorf("%v", err)
		}
		w.takeDown(t, s)
	})
}

// An upper in memory moves as any other, and nothing of that is left when it is gone.
func TestPivotOfThrowawayUpper(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		r := newRelease(t, w)
		c := w.config(t, r.old)
		c.Upper.Tmpfs = 64 << 20
		s := w.up(t, c)
		r.fill(t, s)
		if res, err := s.Pivot(t.Context(), PivotOptions{}); err != nil || res.Plan != nil {
			t.Fatalf("nothing changed: %+v, %v", res, err)
		}
		if res, err := s.Pivot(t.Context(), PivotOptions{Lowers: []Lower{lowerOf(t, r.next)}}); err != nil || res.Plan.Copied.Objects != 2 {
			t.Fatalf("%+v, %v", res, err)
		}
		if got := inLayer(t, &s.Config); !slices.Equal(got, []string{"libc", "mine", "tool"}) {
			t.Errorf("the layer holds %q", got)
		}
		sound(t, s)
		w.takeDown(t, s)
		s = w.up(t, c)
		sound(t, s)
		w.takeDown(t, s)
	})
}

// What a pivot would do can be asked on a full disk, too.
func TestPlanOnAFullDisk(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		r := newRelease(t, w)
		c := w.config(t, r.old)
		if err := errors.Join(os.Mkdir(c.Upper.Dir, 0o755), unix.Mount("tmpfs", c.Upper.Dir, "tmpfs", 0, "size=32M")); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Unmount(c.Upper.Dir, unix.MNT_DETACH) }()
		s := w.up(t, c)
		r.fill(t, s)
		fill, err := os.Create(filepath.Join(c.Upper.Dir, "fill"))
		for err == nil {
			_, err = fill.Write(make([]byte, 4096))
		}
		if closeErr := fill.Close(); !errors.Is(err, unix.ENOSPC) || closeErr != nil {
			t.Fatal(err, closeErr)
		}
		dry, err := s.Pivot(t.Context(), PivotOptions{Lowers: []Lower{lowerOf(t, r.next)}, DryRun: true})
		if err != nil || dry.Done || dry.Plan.Copied.Objects != 2 || dry.Plan.Duplicates.Objects != 1 {
			t.Errorf("%+v, %v", dry, err)
		}
		has(t, s, r.tool)
		if err := s.TakeDown(t.Context(), TakeDownOptions{}); err != nil {
			t.Error(err)
		}
	})
}
