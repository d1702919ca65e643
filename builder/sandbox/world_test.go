package sandbox_test

import (
	"bufio"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/builder/sandbox"
	"github.com/strata-nix/strata/internal/testenv"
)

// world is what builders of the tests see: the programs of this machine, a store
// directory and a build directory of their own.
func world(t testing.TB) *sandbox.Isolation {
	t.Helper()
	testenv.Bwrap(t)
	dir := testenv.Scratch(t)
	in := &sandbox.Isolation{Mounts: []sandbox.Mount{
		{Kind: sandbox.File, Target: "/etc/passwd", Data: []byte("nixbld:x:1000:100::/build:/noshell\n")},
	}}
	for name, target := range map[string]string{"store": "/nix/store", "build": "/build", "tmp": "/tmp"} {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o777); err != nil { // the builder may be any user
			t.Fatal(err)
		}
		in.Mounts = append(in.Mounts, sandbox.Mount{Kind: sandbox.Own, Source: path, Target: target})
	}
	for _, d := range []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"} {
		in.Mounts = append(in.Mounts, sandbox.Mount{Source: d, Target: d, Optional: true})
	}
	return in
}

// outside is where a mount of the world is on the machine.
func outside(in *sandbox.Isolation, target string) string {
	for _, m := range in.Mounts {
		if m.Target == target {
			return m.Source
		}
	}
	panic("no mount at " + target)
}

// shell is a builder that runs a script.
func shell(in *sandbox.Isolation, script string) sandbox.Spec {
	s := sandbox.Spec{
		Path: "/bin/sh", Args: []string{"sh", "-ec", script}, Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
		Dir: "/", Platform: "x86_64-linux", Isolation: in,
	}
	if in != nil {
		s.Dir = "/build"
	}
	return s
}

// A builder is one that was started, with what it writes until nobody can
// write any more.
type builder struct {
	*sandbox.Process
	out *bufio.Reader
}

func start(t testing.TB, s sandbox.Spec) *builder {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	s.Output = w
	p, err := sandbox.Start(t.Context(), s)
	w.Close()
	if err != nil {
		t.Fatalf("start the builder: %v", err)
	}
	t.Cleanup(func() { p.Kill(); p.Wait() })
	return &builder{p, bufio.NewReader(r)}
}

// line waits for a line of output.
func (b *builder) line(t testing.TB) string {
	t.Helper()
	line, err := b.out.ReadString('\n')
	if err != nil {
		t.Fatalf("the builder said %q: %v", line, err)
	}
	return strings.TrimSuffix(line, "\n")
}

// end waits for the end, and returns the rest of the output.
func (b *builder) end(t testing.TB) (sandbox.Exit, string) {
	t.Helper()
	out, err := io.ReadAll(b.out)
	if err != nil {
		t.Fatal(err)
	}
	exit, err := b.Wait()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return exit, string(out)
}

// run runs a builder that must succeed, and returns what it wrote.
func run(t testing.TB, s sandbox.Spec) string {
	t.Helper()
	exit, out := start(t, s).end(t)
	if exit.Status != 0 {
		t.Fatalf("the builder ended with %+v:\n%s", exit, out)
	}
	return out
}

// startError starts a builder that cannot be started.
func startError(t testing.TB, s sandbox.Spec) error {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	s.Output = null
	p, err := sandbox.Start(t.Context(), s)
	if err == nil {
		p.Kill()
		p.Wait()
		t.Fatal("the builder was started")
	}
	return err
}

// A mode is one of the ways in which builders run.
type mode struct {
	name     string
	isolated bool
	user     *sandbox.User
}

// spec is a shell in that mode.
func (m mode) spec(t testing.TB, script string) sandbox.Spec {
	t.Helper()
	var in *sandbox.Isolation
	if m.isolated {
		in = world(t)
	}
	s := shell(in, script)
	s.User = m.user
	return s
}

// inModes runs a test in all ways in which builders can run here.
func inModes(t *testing.T, test func(t *testing.T, m mode)) {
	modes := []mode{{name: "isolated", isolated: true}, {name: "open"}}
	if os.Geteuid() == 0 {
		modes = append(modes,
			mode{name: "isolated as build user", isolated: true, user: buildUser(t, false)},
			mode{name: "open as build user", user: buildUser(t, false)})
	}
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) { test(t, m) })
	}
}

// buildUser takes ids for builders, which only root can use.
func buildUser(t testing.TB, isRange bool) *sandbox.User {
	t.Helper()
	testenv.PrivilegedRoot(t)
	u, err := pool(t).TryAcquire(t.Context(), sandbox.Want{Range: isRange, Isolated: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Release() })
	return u
}

// pool is one that all tests of this package share, also those of several
// processes, with ids that no other package's tests have: who takes a user kills
// what runs as him.
func pool(t testing.TB) sandbox.Users {
	t.Helper()
	cache, err := testenv.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	const firstID = 0x33000000
	return sandbox.Users{
		StateDir: filepath.Join(cache, "sandbox-users"),
		Auto:     &sandbox.IDRange{Start: firstID, Count: 64 * sandbox.RangeSize},
	}
}
