package stack

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/calendar"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// big is an object that takes so many bytes on disk, and is the same each time.
func big(t *testing.T, name string, size int) storetest.Object {
	t.Helper()
	r := rand.NewChaCha8([32]byte([]byte(fmt.Sprintf("%-32s", name))[:32]))
	b := make([]byte, size)
	_, _ = r.Read(b)
	return storetest.File(t, storepath.DefaultDir, name, string(b))
}

// root makes a root of an object in the upper.
func (w *world) root(t *testing.T, link string, o storetest.Object) {
	t.Helper()
	path := filepath.Join(w.path("upper/state"), link)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/nix/store/"+o.Path().Base(), path); err != nil {
		t.Fatal(err)
	}
}

func layerObjects(t *testing.T, s *Stack) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(s.Config.Upper.Layer)
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

func collect(t *testing.T, s *Stack, o CollectOptions) *CollectResult {
	t.Helper()
	r, err := s.Collect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A quota is kept, and no more is deleted for it than is needed.
func TestQuota(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		const mib = 1 << 20
		c := w.config(t, w.lower(t, "base"))
		c.GC.MaxSize = 5 * mib
		s := w.up(t, c)
		alive := big(t, "alive", mib)
		addTo(t, s.Store, alive)
		w.root(t, "gcroots/alive", alive)
		for i := range 3 {
			addTo(t, s.Store, big(t, "dead"+strconv.Itoa(i), mib))
		}
		if r := collect(t, s, CollectOptions{}); r.Paths != 0 || r.BytesFreed != 0 || r.OverQuota || *r.SizeAfter < 4*mib || *r.SizeAfter > 5*mib {
			t.Errorf("below the quota: %+v", r)
		}
		for i := range 4 {
			addTo(t, s.Store, big(t, "more"+strconv.Itoa(i), mib))
		}
		if r := collect(t, s, CollectOptions{DryRun: true}); r.Paths == 0 || len(layerObjects(t, s)) != 8 {
			t.Errorf("a dry run: %+v", r)
		}
		r := collect(t, s, CollectOptions{})
		if r.OverQuota || *r.SizeBefore < 8*mib || *r.SizeAfter > 5*mib || *r.SizeAfter < 3*mib {
			t.Errorf("over the quota: %+v, %d to %d", r, *r.SizeBefore, *r.SizeAfter)
		}
		if left := layerObjects(t, s); !slices.Contains(left, "alive") || len(left) < 4 {
			t.Errorf("left are %q", left)
		}
		tiny := uint64(1000)
		if r := collect(t, s, CollectOptions{MaxSize: &tiny}); !r.OverQuota || !slices.Equal(layerObjects(t, s), []string{"alive"}) {
			t.Errorf("a quota that cannot be kept: %+v, %q", r, layerObjects(t, s))
		}
		w.takeDown(t, s)
	})
}

// Several that collect at once for a quota delete no more than one would.
func TestQuotaIsMetOnce(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		const mib = 1 << 20
		c := w.config(t, w.lower(t, "base"))
		c.GC.MaxSize = 5 * mib
		s := w.up(t, c)
		for i := range 8 {
			addTo(t, s.Store, big(t, "dead"+strconv.Itoa(i), mib))
		}
		var all sync.WaitGroup
		var freed atomic.Uint64
		for range 4 {
			all.Go(func() {
				r, err := s.run.Collect(t.Context(), CollectOptions{})
				if err != nil || r.OverQuota {
					t.Errorf("%+v, %v", r, err)
				}
				freed.Add(r.BytesFreed)
			})
		}
		all.Wait()
		size, err := diskUsage(t.Context(), s.Config.Upper.Layer)
		if err != nil || size > 5*mib || size < 4*mib-mib/2 || freed.Load() > 4*mib+mib/2 {
			t.Errorf("%d bytes are left, %d were freed, %v", size, freed.Load(), err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if err := s.collecting.take(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
		if _, err := s.Collect(ctx, CollectOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("waiting: %v", err)
		}
		s.collecting.leave()
		w.takeDown(t, s)
	})
}

// Old generations go, and with them what only they kept; never the current one.
func TestGenerationsOfAPolicy(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		c := w.config(t, w.lower(t, "base"))
		c.GC.DeleteOlderThan, c.GC.Optimise = 10*24*time.Hour, true
		s := w.up(t, c)
		for i, age := range []int{50, 40, 30, 1} {
			o := object(t, "generation"+strconv.Itoa(i+1))
			addTo(t, s.Store, o)
			link := fmt.Sprintf("profiles/per-user/me/p-%d-link", i+1)
			w.root(t, link, o)
			at := unix.NsecToTimespec(time.Now().AddDate(0, 0, -age).UnixNano())
			if err := unix.UtimesNanoAt(unix.AT_FDCWD, w.path("upper/state/"+link), []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink("p-4-link", w.path("upper/state/profiles/per-user/me/p")); err != nil {
			t.Fatal(err)
		}
		r := collect(t, s, CollectOptions{})
		if len(r.Generations) != 2 || !r.Optimised || !slices.Equal(layerObjects(t, s), []string{"generation3", "generation4"}) {
			t.Errorf("%+v, left are %q", r, layerObjects(t, s))
		}
		all := true
		if r = collect(t, s, CollectOptions{DeleteOld: &all}); len(r.Generations) != 1 || !slices.Equal(layerObjects(t, s), []string{"generation4"}) {
			t.Errorf("%+v, left are %q", r, layerObjects(t, s))
		}
		w.takeDown(t, s)
	})
}

// A collection is due by the schedule, and not again before its time.
func TestDue(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		c := w.config(t, w.lower(t, "base"))
		s := w.up(t, c)
		if r := collect(t, s, CollectOptions{Due: true}); !r.Skipped || r.Next != nil {
			t.Errorf("without a schedule: %+v", r)
		}
		var err error
		if s.Config.GC.Schedule, err = calendar.Parse("1d"); err != nil {
			t.Fatal(err)
		}
		if r := collect(t, s, CollectOptions{Due: true}); r.Skipped {
			t.Errorf("the first time: %+v", r)
		}
		if r := collect(t, s, CollectOptions{Due: true}); !r.Skipped || r.Next == nil || time.Until(*r.Next) < 23*time.Hour {
			t.Errorf("the second time: %+v", r)
		}
		record := filepath.Join(s.Config.Upper.State, gcRecord)
		last, err := readRecord(record)
		if err != nil {
			t.Fatal(err)
		}
		for name, change := range map[string]func() error{
			"a day ago":                  func() error { last.Started = time.Now().Add(-25 * time.Hour); return writeRecord(record, last) },
			"by a clock that was wrong":  func() error { last.Started = time.Now().AddDate(1, 0, 0); return writeRecord(record, last) },
			"with a record that is torn": func() error { return os.WriteFile(record, []byte(`{"stack":`), 0o600) },
		} {
			if err := change(); err != nil {
				t.Fatal(err)
			}
			if r := collect(t, s, CollectOptions{Due: true}); r.Skipped {
				t.Errorf("%s: %+v", name, r)
			}
		}
		if st := s.Status(t.Context()).GC; st == nil || st.Schedule != "1d" || st.Last == nil || st.Next == nil {
			t.Errorf("status: %+v", st)
		}
		w.takeDown(t, s)
	})
}

const (
	askAsEnv = "STACK_TEST_ASK"
	askUID   = 1234
)

// askUpper sends a word to a stack and prints the answer.
func askUpper(upper string) {
	conn, err := net.Dial("unix", filepath.Join(upper, controlFile))
	if err == nil {
		if _, err = conn.Write([]byte("refresh null\n")); err == nil {
			buf := make([]byte, 4096)
			var n int
			if n, err = conn.Read(buf); err == nil {
				fmt.Print(string(buf[:n]))
			}
		}
	}
	if err != nil {
		fmt.Print("error: ", err)
	}
	os.Exit(0)
}

// The owner of an upper may look after it, and other users may not.
func TestOwner(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	testenv.PrivilegedRoot(t)
	w := newWorld(t)
	if err := os.Chmod(w.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	binary := w.path("ask")
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(binary, self, 0o755); err != nil {
		t.Fatal(err)
	}
	ask := func(uid uint32) string {
		t.Helper()
		cmd := exec.Command(binary)
		cmd.Env = append(os.Environ(), askAsEnv+"="+w.path("upper"))
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	for _, owned := range []bool{false, true} {
		c := resolved(t, w.config(t, w.lower(t, "base")))
		if owned {
			c.GC.Owner = strconv.Itoa(askUID)
			// There is no such user on this machine, which Resolve would say.
			lookup = func(string) (int, error) { return askUID, nil }
			defer func() { lookup = lookupUser }()
		}
		s, err := Assemble(t.Context(), c, parts())
		if err == nil {
			err = s.Announce(t.Context(), nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := ask(0); !strings.Contains(got, `"result"`) {
			t.Errorf("root: %s", got)
		}
		if got := ask(askUID); strings.Contains(got, `"result"`) != owned {
			t.Errorf("owned %t: the owner: %s", owned, got)
		}
		if got := ask(askUID + 1); strings.Contains(got, `"result"`) {
			t.Errorf("owned %t: another user: %s", owned, got)
		}
		// Even one whom the file system lets in.
		if err := os.Chmod(w.path("upper/control"), 0o666); err != nil {
			t.Fatal(err)
		}
		if got := ask(askUID + 1); !strings.Contains(got, "may not look after") {
			t.Errorf("owned %t: another user who can connect: %s", owned, got)
		}
		if err := s.TakeDown(context.WithoutCancel(t.Context()), TakeDownOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}
