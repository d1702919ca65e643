package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
)

// walkWorld is a binary cache of invented objects, in all the ways in which a cache can have them.
type walkWorld struct {
	*lazyWorld
	down   atomic.Bool
	bad    *badServer
	random *rand.Rand
	uris   []string
}

// newWalkWorld makes one whose servers go by a seed.
func newWalkWorld(t *testing.T, seed uint64) *walkWorld {
	t.Helper()
	testenv.FUSE(t)
	w := &walkWorld{lazyWorld: &lazyWorld{t: t, dir: testenv.Scratch(t)}, random: rand.New(rand.NewPCG(seed, 0))}
	inMemory(t, w.path("store"))
	inMemory(t, w.path("cache"))
	w.corpus = w.path("store/nix/store")
	source := "local?root=" + w.path("store")
	for i, make := range []func(dir string) error{w.makeShapes, w.makeLarge, w.makeMany, w.makeLarge, w.makeShapes, w.makeMany} {
		dir := w.path(fmt.Sprintf("object%d", i))
		if err := make(dir); err != nil {
			t.Fatal(err)
		}
		path := strings.TrimSpace(w.run("add", "--store", source, dir))
		// In parts, by its listing, or only as a whole.
		how := [][]string{{"--lazy", "file://" + w.path("from")}, {"file://" + w.path("from") + "?compression=zstd&write-nar-listing=true"}, {"file://" + w.path("from") + "?compression=xz"}}[i%3]
		w.run(append(append([]string{"push", "--store", source}, how...), path)...)
		w.objects = append(w.objects, filepath.Base(path))
	}
	w.bad = &badServer{dir: w.path("from"), random: rand.New(rand.NewPCG(seed, 1))}
	good := &badServer{dir: w.path("from"), random: rand.New(rand.NewPCG(seed, 2))}
	good.calm.Store(true)
	for i, h := range []http.Handler{w.bad, good} {
		server := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
			if w.down.Load() {
				http.Error(out, "we are moving", http.StatusServiceUnavailable)
				return
			}
			h.ServeHTTP(out, r)
		}))
		t.Cleanup(server.Close)
		w.uris = append(w.uris, fmt.Sprintf("%s?trusted=true&priority=%d", server.URL, i+1))
	}
	return w
}

// text is random and can be compressed.
func (w *walkWorld) text(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = "0123456789abcdef"[w.random.IntN(16)]
	}
	return b
}

func (w *walkWorld) file(name string, n int, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, w.text(n), mode)
}

// makeShapes has one of all that an object can have in it.
func (w *walkWorld) makeShapes(dir string) error {
	for _, f := range []struct {
		name string
		size int
		mode os.FileMode
	}{
		{"bin/tool", 70_000, 0o755}, {"share/empty", 0, 0o644}, {"share/page", 4096, 0o644}, {"share/one", 1, 0o644},
		{"share/" + strings.Repeat("n", 255), 10, 0o644}, {"share/a b\tc", 20, 0o644}, {"share/ä", 30, 0o644}, {"a/b/c/d/e/f", 5000, 0o644},
	} {
		if err := w.file(filepath.Join(dir, f.name), f.size, f.mode); err != nil {
			return err
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "nothing"), 0o755); err != nil {
		return err
	}
	if err := os.Symlink("../nowhere", filepath.Join(dir, "share/dangling")); err != nil {
		return err
	}
	return os.Symlink("bin/tool", filepath.Join(dir, "link"))
}

// makeLarge has files of several chunks, some of them twice.
func (w *walkWorld) makeLarge(dir string) error {
	for i := range 4 {
		name := filepath.Join(dir, "lib", fmt.Sprintf("lib%d.so", i))
		if err := w.file(name, 200_000+w.random.IntN(1<<20), 0o755); err != nil {
			return err
		}
		if i == 0 {
			text, err := os.ReadFile(name)
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, "copy"), text, 0o644)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// makeMany has a directory of more entries than the kernel asks for at once.
func (w *walkWorld) makeMany(dir string) error {
	for i := range 700 {
		if err := w.file(filepath.Join(dir, "many", fmt.Sprintf("an-entry-with-a-long-name-%d", i)), w.random.IntN(200), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// walkers are processes that read all the time.
type walkers struct {
	w     *walkWorld
	job   walkJob
	told  chan struct{} // some more has been read
	all   []*exec.Cmd
	ended chan error
}

// start starts one more.
func (s *walkers) start() {
	t := s.w.t
	t.Helper()
	s.job.Seed++
	text, err := json.Marshal(s.job)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), walkVar+"="+string(text))
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.all = append(s.all, cmd)
	go func() {
		for in := bufio.NewScanner(out); in.Scan(); {
			s.told <- struct{}{}
		}
		err := cmd.Wait()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, said.String())
		}
		s.ended <- err
	}()
}

// Readers of all kinds in several processes, of which some are killed, read from a mount, and from a stack
// over one, of servers that fail, lie, and go away; meanwhile objects are evicted, and who serves the mount is killed or replaced. Nobody ever
// reads a wrong byte or misses a name, nobody hangs, and in the end everything is as it should be.
func TestRandomWalkOfReaders(t *testing.T) {
	testenv.Long(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	seed, steps := testenv.Walk(t, 8)
	for name, mount := range map[string]func(*walkWorld) string{
		"mount": func(w *walkWorld) string {
			at := w.path("mnt")
			w.mountFrom(at, []string{"XDG_CACHE_HOME=" + w.path("xdg")}, w.uris...)
			return at
		},
		"stack": (*walkWorld).stack,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWalkWorld(t, seed)
			at := mount(w)
			w.walk(at, seed, steps)
			w.bad.calm.Store(true)
			w.until("everything can be read", func() bool {
				return !slices.ContainsFunc(w.objects, func(o string) bool {
					return exec.Command("diff", "-r", "--no-dereference", filepath.Join(w.corpus, o), filepath.Join(at, o)).Run() != nil
				})
			})
			w.same(at, w.objects...)
			t.Logf("%d answers of the servers were wrong", w.bad.faults.Load())
		})
	}
}

// stack brings one up over the caches.
func (w *walkWorld) stack() string {
	w.t.Helper()
	file := w.path("strata.toml")
	text := fmt.Sprintf("upper.dir = %q\nroot = %q\n[[lower]]\nlazy = [%q, %q]\ncache = \"cache\"\nname = \"l\"\n", w.path("up"), w.path("root"), w.uris[0], w.uris[1])
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { // once the stack is down, and before its places are removed
		w.until("those who served it have ended", func() bool { return strings.TrimSpace(w.run("lazy", "status", "--json")) == "[]" })
	})
	cmd := w.command("up", "-c", file)
	cmd.Env = append(cmd.Env, "XDG_CACHE_HOME="+w.path("xdg"))
	p := testenv.Start(w.t, cmd)
	w.until("the stack is ready", func() bool { return strings.Contains(p.Output(), "ready: ") })
	return w.path("root/nix/store")
}

// walk disturbs readers, at each step of theirs.
func (w *walkWorld) walk(at string, seed uint64, steps int) {
	t := w.t
	t.Helper()
	const readers = 3
	s := &walkers{w: w, told: make(chan struct{}), ended: make(chan error), job: walkJob{At: at, Model: w.corpus, Objects: w.objects, Seed: seed, Steps: steps}}
	for range readers {
		s.start()
	}
	r := rand.New(rand.NewPCG(seed, 3))
	killed, running := 0, readers
	const patience = 2 * time.Minute // with nobody having got any further
	for running > 0 {
		select {
		case <-s.told:
			killed += w.disturb(r, s)
		case err := <-s.ended:
			running--
			if err != nil && killed > 0 && strings.Contains(err.Error(), "signal: killed") {
				killed, running = killed-1, running+1
				s.start()
			} else if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			for _, cmd := range s.all {
				_ = cmd.Process.Kill()
			}
			t.Fatal("the readers do not come to an end")
		}
	}
	w.down.Store(false)
}

// disturb does one of the things that can happen, and tells how many readers it has killed.
func (w *walkWorld) disturb(r *rand.Rand, s *walkers) (killed int) {
	w.t.Helper()
	w.down.Store(false)
	switch r.IntN(16) {
	case 0, 1:
		_ = unix.Kill(w.server(), unix.SIGKILL) // if it has not been already
	case 2:
		_ = unix.Kill(w.keeper(), unix.SIGHUP) // a new program takes over
	case 3, 4:
		w.run("lazy", "evict", "--cache", w.path("cache"), "--all")
	case 5, 6:
		w.run("lazy", "evict", "--cache", w.path("cache"), "/nix/store/"+w.objects[r.IntN(len(w.objects))])
	case 7:
		if r.IntN(4) == 0 {
			w.down.Store(true) // until the next step
		}
	case 8:
		if r.IntN(4) == 0 {
			if s.all[r.IntN(len(s.all))].Process.Signal(syscall.SIGKILL) == nil {
				return 1
			}
		}
	}
	return 0
}

// keeper is the process that keeps the only mount.
func (w *walkWorld) keeper() int {
	w.t.Helper()
	var all []lazyStatus
	if err := json.Unmarshal([]byte(w.run("lazy", "status", "--json")), &all); err != nil || len(all) != 1 {
		w.t.Fatalf("%v, %+v", err, all)
	}
	return all[0].PID
}
