package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/stack"
)

// lazyWorld is a binary cache with some real objects, and a place to use it in.
type lazyWorld struct {
	t       *testing.T
	dir     string
	corpus  string // a store with the same objects, to compare with
	objects []string
}

// newLazyWorld makes a binary cache of the closures of some objects of the corpus. The test
// must be isolated.
func newLazyWorld(t *testing.T, names ...string) *lazyWorld {
	t.Helper()
	testenv.FUSE(t)
	dir, registration := testenv.Corpus(t)
	return newLazyWorldOf(t, dir, registration, names...)
}

// newLazyWorldOf makes one of other objects than the small corpus; without names of all of them.
func newLazyWorldOf(t *testing.T, dir, registration string, names ...string) *lazyWorld {
	t.Helper()
	w := &lazyWorld{t: t, dir: testenv.Scratch(t), corpus: filepath.Join(dir, "nix/store")}
	source := "local?" + url.Values{"real": {w.corpus}, "state": {w.path("state")}}.Encode()
	load := w.command("load-db", "--store", source)
	f, err := os.Open(registration)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	load.Stdin = f
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	args := []string{"push", "--store", source, "file://" + w.path("from") + "?compression=zstd&write-nar-listing=true"}
	if len(names) == 0 {
		names = []string{""} // each of which is a part
		all, err := filepath.Glob(filepath.Join(w.corpus, "*-*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range all {
			args = append(args, "/nix/store/"+filepath.Base(o))
		}
	} else {
		for _, name := range names {
			args = append(args, "/nix/store/"+w.object(name))
		}
	}
	w.run(args...)
	infos, err := filepath.Glob(w.path("from/*.narinfo"))
	if err != nil || len(infos) < len(names) {
		t.Fatalf("%d narinfos, %v", len(infos), err)
	}
	for _, info := range infos {
		hash := strings.TrimSuffix(filepath.Base(info), ".narinfo")
		found, _ := filepath.Glob(filepath.Join(w.corpus, hash+"-*"))
		w.objects = append(w.objects, filepath.Base(found[0]))
	}
	return w
}

func (w *lazyWorld) path(name string) string { return filepath.Join(w.dir, name) }

// uri is the binary cache.
func (w *lazyWorld) uri() string { return "file://" + w.path("from") + "?trusted=true" }

// mountFrom is mount with other caches.
func (w *lazyWorld) mountFrom(at string, env []string, from ...string) *testenv.Process {
	w.t.Helper()
	if err := os.MkdirAll(at, 0o755); err != nil {
		w.t.Fatal(err)
	}
	cmd := w.command(append(append([]string{"lazy", "mount", "--cache", w.path("cache")}, from...), at)...)
	cmd.Env = append(cmd.Env, env...)
	p := testenv.Start(w.t, cmd)
	w.until("the mount is ready", func() bool { return strings.Contains(p.Output(), "ready: ") })
	return p
}

// object completes the name of an object of the corpus.
func (w *lazyWorld) object(name string) string {
	w.t.Helper()
	found, err := filepath.Glob(filepath.Join(w.corpus, "*-"+name+"*"))
	if err != nil || len(found) == 0 {
		w.t.Fatalf("no object '%s' (%v)", name, err)
	}
	return filepath.Base(found[0])
}

func (w *lazyWorld) command(args ...string) *exec.Cmd {
	cmd := exec.Command(testenv.Strata(w.t), args...)
	cmd.Env = append(os.Environ(), stack.RuntimeEnv+"="+w.path("run"), "NIX_REMOTE=", "NIX_CONF_DIR="+w.dir)
	return cmd
}

func (w *lazyWorld) run(args ...string) string {
	w.t.Helper()
	cmd := w.command(args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("strata %q: %v\n%s", args, err, stderr.String())
	}
	return string(out)
}

// mount shows the cache in a directory.
func (w *lazyWorld) mount(at string, args ...string) *testenv.Process {
	w.t.Helper()
	if err := os.MkdirAll(at, 0o755); err != nil {
		w.t.Fatal(err)
	}
	cmd := w.command(append(append([]string{"lazy", "mount", "--cache", w.path("cache")}, args...), w.uri(), at)...)
	p := testenv.Start(w.t, cmd)
	w.until("the mount is ready", func() bool { return strings.Contains(p.Output(), "ready: ") })
	return p
}

func (w *lazyWorld) until(what string, f func() bool) {
	w.t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("never: %s", what)
		}
	}
}

// server is the process that serves the only mount.
func (w *lazyWorld) server() (pid int) {
	w.t.Helper()
	w.until("somebody serves the mount", func() bool {
		var all []lazyStatus
		if err := json.Unmarshal([]byte(w.run("lazy", "status", "--json")), &all); err != nil {
			w.t.Fatal(err)
		}
		if len(all) == 1 && all[0].Serving != nil {
			pid = all[0].Serving.PID
		}
		return pid != 0
	})
	return pid
}

// same compares what shows with what should. It is done by a process of its own, which may wait.
func (w *lazyWorld) same(at string, objects ...string) {
	w.t.Helper()
	for _, o := range objects {
		out, err := exec.Command("diff", "-r", "--no-dereference", filepath.Join(w.corpus, o), filepath.Join(at, o)).CombinedOutput()
		if err != nil {
			w.t.Errorf("%s is another one: %v: %.500s", o, err, out)
		}
		const script = `cd "$1" && find "$2" -printf '%P %y %m %s %T@ %l\n' | sed 's/^\(.* d 555\) [0-9]*/\1/' | sort`
		var texts [2]string
		for i, dir := range []string{w.corpus, at} {
			out, err := exec.Command("sh", "-c", script, "sh", dir, o).Output()
			if err != nil {
				w.t.Error(err)
			}
			texts[i] = string(out)
		}
		if texts[0] != texts[1] {
			w.t.Errorf("%s has other names or metadata", o)
		}
	}
}

// Real programs run from a mount whose server is killed all the while, and everything is as in a plain
// store.
func TestLazyMount(t *testing.T) {
	testenv.Long(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	w := newLazyWorld(t, "bash-5.2.15", "perl-base-5.36", "gzip-1.12", "sed-4.9-1", "coreutils-9.1")
	at := w.path("mnt")
	p := w.mount(at)
	stop := make(chan struct{})
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		for range 5 {
			_ = syscall.Kill(w.server(), syscall.SIGKILL) // if it has not been already
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond): // how often does not matter
			}
		}
	}()
	for _, c := range []struct{ object, script, want string }{
		{"bash-5.2.15", `"$1"/bin/bash -c 'echo $((6 * 7))'`, "42\n"},
		{"perl-base-5.36", `"$1"/usr/bin/perl -e 'print join(",", map { $_ * 2 } 1 .. 3), "\n"'`, "2,4,6\n"},
		{"gzip-1.12", `echo text | "$1"/bin/gzip -c | "$1"/bin/gzip -dc`, "text\n"},
		{"sed-4.9-1", `echo abc | "$1"/bin/sed s/b/x/`, "axc\n"},
		{"coreutils-9.1", `"$1"/bin/echo a b | "$1"/usr/bin/wc -w`, "2\n"},
	} {
		out, err := exec.Command("sh", "-c", c.script, "sh", filepath.Join(at, w.object(c.object))).CombinedOutput()
		if err != nil || string(out) != c.want {
			t.Errorf("%s: %q, %v", c.object, out, err)
		}
	}
	w.same(at, w.objects...)
	close(stop)
	<-killed
	w.same(at, w.objects...)
	w.until("nothing is in use, and all is evicted", func() bool {
		return strings.Contains(w.run("lazy", "evict", "--cache", w.path("cache"), "--all", "--json"), `"objectsLeft":0`)
	})
	if out := w.run("lazy", "prefetch", filepath.Join(at, w.object("gzip-1.12"))); !strings.HasSuffix(out, "objects are here\n") {
		t.Errorf("%q", out)
	}
	gzip := w.object("gzip-1.12")
	profile := w.path("profile")
	if err := os.WriteFile(profile, fmt.Appendf(nil, "strata-profile 1\n%s\n%s \"bin/gzip\"\n", gzip, gzip), 0o600); err != nil {
		t.Fatal(err)
	}
	w.run("lazy", "profile", "import", profile)
	if out := w.run("lazy", "profile", "list"); !strings.Contains(out, "/nix/store/"+gzip+" ") {
		t.Errorf("%q", out)
	}
	if out := w.run("lazy", "profile", "export", filepath.Join(at, gzip)); !strings.Contains(out, gzip+" \"bin/gzip\"\n") {
		t.Errorf("%q", out)
	}
	if out := w.run("lazy", "prefetch", "--profile", profile, "--profile", "/nix/store/"+gzip); !strings.Contains(out, "files are wanted") {
		t.Errorf("%q", out)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(at); err != nil || len(entries) > 0 {
		t.Errorf("it is still mounted: %v, %v", entries, err)
	}
}

// Stock Nix has the mount for the lower of its own layered store, with no strata in between.
func TestStockNixOverLazyMount(t *testing.T) {
	testenv.Long(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	nix := testenv.Nix(t, "2.34")
	w := newLazyWorld(t, "gzip-1.12", "sed-4.9-1")
	nix = nix.WithBind(w.dir, w.dir)
	lower, upper, work, socket := w.path("mnt"), w.path("upper"), w.path("work"), w.path("socket")
	w.mount(lower, "--socket", socket)
	for _, d := range []string{upper, work, nix.Store()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("overlay", nix.Store(), "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work)); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(nix.Store(), unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	v := url.Values{"upper-layer": {upper}, "lower-store": {"unix://" + socket + "?real=" + lower}}
	store := "local-overlay://?" + v.Encode()
	const features = "nix-command local-overlay-store"
	run := func(name string, args ...string) string {
		t.Helper()
		return nix.Run(t, name, append(args, "--option", "experimental-features", features, "--store", store)...)
	}
	gzip := "/nix/store/" + w.object("gzip-1.12")
	closure := strings.Fields(run("nix-store", "-qR", gzip))
	if len(closure) < 2 || closure[len(closure)-1] != gzip {
		t.Errorf("%q", closure)
	}
	run("nix-store", "--realise", gzip)
	if out := run("nix", "path-info", "-sh", gzip); !strings.Contains(out, gzip) {
		t.Errorf("%q", out)
	}
	if out := nix.Run(t, "sh", "-c", "echo text | "+gzip+"/bin/gzip -c | "+gzip+"/bin/gzip -dc"); strings.TrimSpace(out) != "text" {
		t.Errorf("%q", out)
	}
	added := strings.TrimSpace(run("nix-store", "--add", nix.WriteFile(t, "mine", "mine\n")))
	if out := nix.Run(t, "cat", added); strings.TrimSpace(out) != "mine" {
		t.Errorf("%q", out)
	}
	run("nix-store", "--verify", "--check-contents")
	run("nix-store", "--delete", added)
	if entries, err := os.ReadDir(upper); err != nil || len(entries) > 1 { // .links
		t.Errorf("the upper layer has %v (%v)", entries, err)
	}
	w.same(lower, w.objects...)
}

// What commands do for a mount is done where it keeps its objects, whatever their own settings are; and whoever serves it
// next, too.
func TestLazyMountHasItsOwnSettings(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	w := newLazyWorld(t, "sed-4.9-1")
	sed := "/nix/store/" + w.object("sed-4.9-1")
	complete := func() int64 {
		t.Helper()
		w.server()
		var all []lazyStatus
		if err := json.Unmarshal([]byte(w.run("lazy", "status", "--json")), &all); err != nil || len(all) != 1 || all[0].Serving == nil {
			t.Fatalf("%v, %v", all, err)
		}
		return all[0].Serving.Objects.Complete
	}
	const key = "some-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	p := w.mount(w.path("mnt"), "--option", "trusted-public-keys", key)
	w.run("lazy", "prefetch", "--no-closure", sed)
	if n := complete(); n != 1 {
		t.Errorf("of the object that was prefetched the mount has %d", n)
	}
	if err := os.WriteFile(w.path("nix.conf"), []byte("trusted-public-keys =\nrequire-sigs = false\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	first := w.server()
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.until("another process serves the mount", func() bool { return w.server() != first })
	if n := complete(); n != 1 {
		t.Errorf("a process that has taken over has %d objects", n)
	}
	if dirs := lazyDomains(w.path("cache")); len(dirs) != 1 {
		t.Errorf("objects are kept in %v", dirs)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}

// A stack over a lazy lower goes on when its process is killed, the next one takes it over, and what is
// complete is read from disk.
func TestLazyLower(t *testing.T) {
	testenv.Long(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	w := newLazyWorld(t, "gzip-1.12", "sed-4.9-1")
	file := w.path("strata.toml")
	text := fmt.Sprintf("upper.dir = %q\nroot = %q\n[[lower]]\nlazy = [%q]\ncache = \"cache\"\nname = \"l\"\n", w.path("up"), w.path("root"), w.uri())
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	at := w.path("root/nix/store")
	up := func() *testenv.Process {
		t.Helper()
		p := testenv.Start(t, w.command("up", "-c", file))
		w.until("the stack is ready", func() bool { return strings.Contains(p.Output(), "ready: ") })
		return p
	}
	first := up()
	gzip := w.object("gzip-1.12")
	client := func(args ...string) string {
		return w.run(append(args, "--store", "unix://"+w.path("root/nix/var/nix/daemon-socket/socket")+"?root="+w.path("root"))...)
	}
	if out := client("info", "/nix/store/"+gzip); !strings.Contains(out, gzip) {
		t.Errorf("%q", out)
	}
	w.same(at, gzip)
	first.Kill()
	<-first.Done()
	w.same(at, w.object("sed-4.9-1"))
	second := up()
	if !strings.Contains(second.Output(), "taking over") {
		t.Error("nothing was taken over")
	}
	w.same(at, w.objects...)
	added := strings.TrimSpace(client("add", file))
	if _, err := os.Stat(filepath.Join(w.path("root"), added)); err != nil {
		t.Error(err)
	}
	refreshes := func() (n int) {
		var all []struct {
			Refreshes struct {
				Count int `json:"count"`
			} `json:"refreshes"`
		}
		if err := json.Unmarshal([]byte(w.run("status", "--json")), &all); err != nil || len(all) != 1 {
			t.Fatal(err)
		}
		return all[0].Refreshes.Count
	}
	w.until("the overlay has looked again", func() bool { return refreshes() > 0 })
	server := w.server()
	if err := syscall.Kill(server, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	w.same(at, w.objects...) // nobody is asked any more
	if err := syscall.Kill(server, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	// Evicted under the stack, it comes again.
	w.run("lazy", "evict", "--cache", w.path("cache"), "--all")
	w.same(at, w.objects...)
	if err := second.Stop(); err != nil {
		t.Error(err)
	}
	w.until("those who served it have ended", func() bool { return strings.TrimSpace(w.run("lazy", "status", "--json")) == "[]" })
	if _, err := os.Lstat(filepath.Join(at, gzip)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still mounted (%v)", err)
	}
}
