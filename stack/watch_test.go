package stack

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/store/storetest"
)

// await waits until something holds. What is waited for is done by the kernel and by
// goroutines; the limit is for a test that has failed.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// reader is a process that holds the merged directory open, has its listing read, and
// has looked for an object that is not there.
func reader(t *testing.T, s *Stack, absent storetest.Object) *os.File {
	t.Helper()
	d, err := os.Open(s.Config.Mount)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	if _, err := d.Readdirnames(-1); err != nil {
		t.Fatal(err)
	}
	if shows(s, absent) {
		t.Fatalf("%s is there already", absent.Path())
	}
	return d
}

func shows(s *Stack, o storetest.Object) bool {
	_, err := os.Lstat(filepath.Join(s.Config.Mount, o.Path().Base()))
	return err == nil
}

func lists(t *testing.T, s *Stack, o storetest.Object) bool {
	t.Helper()
	entries, err := os.ReadDir(s.Config.Mount)
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == o.Path().Base() })
}

// What a lower gains shows to those who run, without anybody asking for it, and
// disturbs nobody.
func TestGrowthIsNoticed(t *testing.T) {
	for _, how := range []WatchHow{WatchAuto, WatchPoll} {
		t.Run(string(how), func(t *testing.T) {
			inEach(t, func(t *testing.T, w *world) {
				a, late, later := object(t, "a"), object(t, "late"), object(t, "later")
				c := w.config(t, w.lower(t, "l1", a), w.lower(t, "l2"))
				c.Watch = Watch{How: how, Every: 100 * time.Millisecond}
				s := w.up(t, c)
				dir := reader(t, s, late)
				reader(t, s, later)
				user := exec.Command("sleep", "1000")
				user.Dir = s.Config.Mount
				if err := user.Start(); err != nil {
					t.Fatal(err)
				}
				defer func() { _, _ = user.Process.Kill(), user.Wait() }()
				open, err := os.Open(filepath.Join(s.Config.Mount, a.Path().Base()))
				if err != nil {
					t.Fatal(err)
				}
				defer open.Close()

				w.lower(t, "l2", late)
				await(t, "what the second lower gained shows", func() bool { return shows(s, late) && lists(t, s, late) })
				w.lower(t, "l1", later)
				await(t, "what the first lower gained shows", func() bool { return shows(s, later) && lists(t, s, later) })

				if _, err := dir.Seek(0, 0); err != nil {
					t.Fatal(err)
				}
				if names, err := dir.Readdirnames(-1); err != nil || !slices.Contains(names, late.Path().Base()) {
					t.Errorf("a directory that was held open lists %q, %v", names, err)
				}
				buf := make([]byte, 8)
				if n, err := open.Read(buf); err != nil || string(buf[:n]) != "contents" {
					t.Errorf("an open file: %q, %v", buf[:n], err)
				}
				if err := user.Process.Signal(unix.Signal(0)); err != nil {
					t.Errorf("a program was disturbed: %v", err)
				}
				await(t, "both lowers were seen to change", func() bool {
					st := s.Status(t.Context()).Refreshes
					return len(st.Lowers) == 2 && st.Lowers[0].Changes > 0 && st.Lowers[1].Changes > 0
				})
				if st := s.Status(t.Context()).Refreshes; st.Count == 0 || st.Last == nil || st.Errors > 0 {
					t.Errorf("status: %+v", st)
				}
				_, _ = user.Process.Kill(), user.Wait()
				_, _ = open.Close(), dir.Close()
				if err := s.TakeDown(t.Context(), TakeDownOptions{Lazy: true}); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Without a watch, asking refreshes.
func TestRefreshOnRequest(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		late := object(t, "late")
		c := w.config(t, w.lower(t, "base", object(t, "a")))
		c.Watch.How = WatchNever
		s := w.up(t, c)
		dir := reader(t, s, late)
		w.lower(t, "base", late)
		if shows(s, late) {
			t.Error("it shows without a refresh; this test tests nothing")
		}
		r, err := Find("upper")
		if err != nil {
			t.Fatal(err)
		}
		done, err := r.Refresh(t.Context())
		if err != nil || done.ListingsStale || !slices.Contains(done.Grown, "base") {
			t.Errorf("%+v, %v", done, err)
		}
		if !shows(s, late) || !lists(t, s, late) {
			t.Error("it does not show after a refresh")
		}
		if names, err := RefreshOver(t.Context(), w.path("base/nix/store")); err != nil || !slices.Equal(names, []string{"upper"}) {
			t.Errorf("stacks over it: %q, %v", names, err)
		}
		if names, err := RefreshOver(t.Context(), w.dir); err != nil || len(names) > 0 {
			t.Errorf("stacks over another directory: %q, %v", names, err)
		}
		if st := s.Status(t.Context()).Refreshes; st.Count != 2 || st.Watch != WatchNever || st.Lowers[0].Changes != 0 {
			t.Errorf("%+v", st)
		}
		_ = dir.Close()
		w.takeDown(t, s)
	})
}

// fake watches a directory and counts.
func fake(t *testing.T, how WatchHow, dir string, refresh func(context.Context) error) (*watcher, *watched) {
	t.Helper()
	l := &watched{dir: dir}
	l.st.How = how
	w := &watcher{refresh: refresh, log: slog.New(slog.DiscardHandler), every: 50 * time.Millisecond, told: make(chan struct{}, 1), lowers: []*watched{l}}
	return w, l
}

// However many changes there are, refreshes are few, and the last change is seen.
func TestManyChangesAreFewRefreshes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var changes, refreshes, seen atomic.Int64
		const cost = 800 * time.Millisecond
		w, l := fake(t, WatchNever, "/", func(context.Context) error {
			n := changes.Load()
			time.Sleep(cost)
			seen.Store(n)
			refreshes.Add(1)
			return nil
		})
		w.start()
		for range 60_000 { // a minute of them
			changes.Add(1)
			w.changed(l)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Minute)
		if n := refreshes.Load(); n < 2 || n > 60/8+2 {
			t.Errorf("%d refreshes in a minute", n)
		}
		if seen.Load() != changes.Load() {
			t.Errorf("%d of %d changes were seen", seen.Load(), changes.Load())
		}
		w.stop()
	})
}

func TestRefreshThatFailsIsTriedWithTheNextChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		w, l := fake(t, WatchNever, "/", func(context.Context) error {
			if n.Add(1) == 1 {
				return errors.New("no")
			}
			return nil
		})
		w.start()
		w.changed(l)
		time.Sleep(time.Minute)
		w.changed(l)
		time.Sleep(time.Minute)
		if n := n.Load(); n != 2 {
			t.Errorf("%d attempts", n)
		}
		w.stop()
	})
}

// A directory that goes away and comes back is watched again.
func TestLowerThatGoesAwayAndComesBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var refreshes atomic.Int64
	w, _ := fake(t, WatchInotify, dir, func(context.Context) error { refreshes.Add(1); return nil })
	w.start()
	defer w.stop()
	await(t, "it is watched", func() bool {
		_ = os.WriteFile(filepath.Join(dir, "00000000000000000000000000000000-a"), nil, 0o600)
		_ = os.Remove(filepath.Join(dir, "00000000000000000000000000000000-a"))
		return refreshes.Load() > 0
	})
	if err := os.Rename(dir, dir+".gone"); err != nil {
		t.Fatal(err)
	}
	await(t, "it is a problem", func() bool { return w.status()[0].Problem != "" })
	if err := os.Rename(dir+".gone", dir); err != nil {
		t.Fatal(err)
	}
	await(t, "the problem is over", func() bool { return w.status()[0].Problem == "" })
	was := w.status()[0].Changes
	await(t, "it is watched again", func() bool {
		_ = os.WriteFile(filepath.Join(dir, "00000000000000000000000000000000-b"), nil, 0o600)
		_ = os.Remove(filepath.Join(dir, "00000000000000000000000000000000-b"))
		return w.status()[0].Changes > was
	})
}

func TestEvents(t *testing.T) {
	event := func(mask uint32, name string) []byte {
		padded := append([]byte(name), make([]byte, 16-len(name)%16)...)
		b := make([]byte, unix.SizeofInotifyEvent, unix.SizeofInotifyEvent+len(padded))
		binary.NativeEndian.PutUint32(b[4:], mask)
		binary.NativeEndian.PutUint32(b[12:], uint32(len(padded)))
		return append(b, padded...)
	}
	const obj = "00000000000000000000000000000000-hello"
	for _, c := range []struct {
		name          string
		b             []byte
		changed, gone bool
	}{
		{"an object", event(unix.IN_MOVED_TO, obj), true, false},
		{"a lock", event(unix.IN_CREATE, obj+".lock"), false, false},
		{"a build", event(unix.IN_CREATE, obj+".drv.chroot"), false, false},
		{"something temporary", event(unix.IN_CREATE, "00000000000000000000000000000000-strata.tmp"), false, false},
		{"several", slices.Concat(event(unix.IN_CREATE, obj+".lock"), event(unix.IN_CREATE, obj), event(unix.IN_DELETE, obj+".lock")), true, false},
		{"too many", event(unix.IN_Q_OVERFLOW, ""), true, false},
		{"unmounted", event(unix.IN_UNMOUNT, ""), true, true},
		{"cut", event(unix.IN_CREATE, obj)[:40], true, false},
		{"nothing", nil, false, false},
	} {
		if changed, gone := events(c.b); changed != c.changed || gone != c.gone {
			t.Errorf("%s: %t, %t", c.name, changed, gone)
		}
	}
}

// A generation file and a database that changes tell of growth where directories do
// not.
func TestSigns(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "db"), 0o755); err != nil {
		t.Fatal(err)
	}
	last := signOf(dir, dir)
	for _, name := range []string{generationFile, dbInState, dbInState + "-wal"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		now := signOf(dir, dir)
		now.dir = last.dir // it is the file that is to tell
		if now == last {
			t.Errorf("%s does not show", name)
		}
		last = signOf(dir, dir)
	}
	if signOf(dir, dir) != last || signOf(filepath.Join(dir, "absent"), "") != (sign{}) {
		t.Error("signs where nothing changed")
	}
}
