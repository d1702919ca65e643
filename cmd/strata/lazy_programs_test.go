package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
)

// mergedRoot shows objects of a store directory as one system, which goes with the test.
func mergedRoot(t *testing.T, store string, objects []string) string {
	t.Helper()
	root, end, err := testenv.System(testenv.Scratch(t), store, objects)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := end(); err != nil {
			t.Error(err)
		}
	})
	return root
}

// inRoot runs a program and gives all that it says.
func inRoot(t *testing.T, root string, p *testenv.Program) string {
	t.Helper()
	out, err := p.Command(root).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v: %s", p.Name, err, out)
	}
	return string(out)
}

// badServer serves a directory as the internet does: late, slowly, and every now and then not at all, not
// to the end, or something else.
type badServer struct {
	dir    string
	mu     sync.Mutex
	random *rand.Rand
	calm   atomic.Bool
	faults atomic.Int64
}

func (s *badServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	late, how := time.Duration(s.random.IntN(8))*time.Millisecond, s.random.IntN(12)
	s.mu.Unlock()
	time.Sleep(late) // which is what is tested with
	if s.calm.Load() || !strings.Contains(r.URL.Path, "/nar/") {
		how = -1
	}
	switch how {
	case 0:
		s.faults.Add(1)
		http.Error(w, "try again later", http.StatusServiceUnavailable)
		return
	case 1, 2:
		s.faults.Add(1)
		http.ServeFile(&spoiled{ResponseWriter: w, cut: how == 1}, r, filepath.Join(s.dir, filepath.FromSlash(r.URL.Path)))
		return
	}
	http.ServeFile(&slow{w}, r, filepath.Join(s.dir, filepath.FromSlash(r.URL.Path)))
}

// slow writes at some 100 MB a second.
type slow struct{ http.ResponseWriter }

func (s *slow) Write(p []byte) (int, error) {
	time.Sleep(time.Duration(len(p)) * 10 * time.Nanosecond)
	return s.ResponseWriter.Write(p)
}

// spoiled breaks off, or changes a byte.
type spoiled struct {
	http.ResponseWriter
	cut  bool
	sent int
}

func (s *spoiled) Write(p []byte) (int, error) {
	s.sent += len(p)
	if s.cut && s.sent > 1000 {
		panic(http.ErrAbortHandler)
	}
	p = slices.Clone(p)
	p[len(p)/2] ^= 1
	return s.ResponseWriter.Write(p)
}

// inMemory makes a directory of what is synced to disk a thousand times, which is not what is tested.
func inMemory(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1g"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// Real programs run from a mount over servers with faults, while who serves the mount is killed, and say and
// make what they do in a store that is all here.
func TestProgramsOverHTTP(t *testing.T) {
	testenv.Long(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	testenv.FUSE(t)
	dir, registration := testenv.Programs(t)
	w := newLazyWorldOf(t, dir, registration)
	inMemory(t, w.path("cache"))
	seed, _ := testenv.Walk(t, 0)
	bad := &badServer{dir: w.path("from"), random: rand.New(rand.NewPCG(seed, 0))}
	good := &badServer{dir: w.path("from"), random: rand.New(rand.NewPCG(seed, 1))}
	good.calm.Store(true)
	var uris []string
	for i, s := range []*badServer{bad, good} {
		server := httptest.NewServer(s)
		t.Cleanup(server.Close)
		uris = append(uris, fmt.Sprintf("%s?trusted=true&priority=%d", server.URL, i+1))
	}
	at := w.path("mnt")
	p := w.mountFrom(at, []string{"XDG_CACHE_HOME=" + w.path("xdg")}, uris...)
	lazy, plain := mergedRoot(t, at, w.objects), mergedRoot(t, w.corpus, w.objects)
	stop, killed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(killed)
		for range 5 {
			select {
			case <-stop:
				return
			case <-time.After(300 * time.Millisecond): // how often does not matter
			}
			_ = syscall.Kill(w.server(), syscall.SIGKILL) // if it has not been already
		}
	}()
	for _, p := range testenv.ProgramList() {
		if got, want := inRoot(t, lazy, &p), inRoot(t, plain, &p); got != want || want == "" {
			t.Errorf("%s says\n%s\nand should say\n%s", p.Name, got, want)
		}
	}
	close(stop)
	<-killed
	if bad.faults.Load() == 0 {
		t.Error("nothing went wrong")
	}
	bad.calm.Store(true)
	w.same(at, w.object("git-1"), w.object("python3.13-minimal"), w.object("perl-base"))
	// Evicted under those who have it open, it comes again.
	w.run("lazy", "evict", "--cache", w.path("cache"), "--all")
	again := testenv.ProgramList()[0]
	if got, want := inRoot(t, lazy, &again), inRoot(t, plain, &again); got != want {
		t.Errorf("after the eviction %s says %q and should say %q", again.Name, got, want)
	}
	if t.Failed() {
		t.Log(p.Output())
	}
}

// The same of one program, from object storage.
func TestProgramsOverS3(t *testing.T) {
	testenv.Long(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	testenv.FUSE(t)
	s3 := testenv.S3Server(t)
	s3.Bucket(t, "cache")
	w := newLazyWorld(t, "bash-5.2.15", "perl-base-5.36", "sed-4.9-1")
	if out, err := exec.Command("cp", "-r", w.path("from")+"/.", filepath.Join(s3.Dir, "cache")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	at := w.path("mnt")
	env := []string{"XDG_CACHE_HOME=" + w.path("xdg")}
	for name, value := range s3.Environ() {
		env = append(env, name+"="+value)
	}
	endpoint := strings.TrimPrefix(s3.Endpoint, "http://")
	w.mountFrom(at, env, "s3://cache?"+url.Values{"endpoint": {endpoint}, "scheme": {"http"}, "region": {s3.Region}, "trusted": {"true"}}.Encode())
	out, err := exec.Command(filepath.Join(at, w.object("perl-base-5.36"), "usr/bin/perl"), "-e", `print join(",", map { $_ * 2 } 1 .. 3), "\n"`).CombinedOutput()
	if err != nil || string(out) != "2,4,6\n" {
		t.Errorf("%q, %v", out, err)
	}
	w.same(at, w.objects...)
}
