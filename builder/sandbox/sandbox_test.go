package sandbox_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
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
	dir := testenv.Scratch(t)
	in := new(sandbox.Isolation)
	for _, d := range []string{"store", "build", "tmp"} {
		path := filepath.Join(dir, d)
		if err := os.Mkdir(path, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	in.Mounts = append(in.Mounts,
		sandbox.Mount{Kind: sandbox.Own, Source: filepath.Join(dir, "store"), Target: "/nix/store"},
		sandbox.Mount{Kind: sandbox.Own, Source: filepath.Join(dir, "build"), Target: "/build"},
		sandbox.Mount{Kind: sandbox.Own, Source: filepath.Join(dir, "tmp"), Target: "/tmp"},
		sandbox.Mount{Kind: sandbox.File, Target: "/etc/passwd", Data: []byte("nixbld:x:1000:100::/build:/noshell\n")},
	)
	for _, d := range []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"} {
		in.Mounts = append(in.Mounts, sandbox.Mount{Kind: sandbox.ReadOnly, Source: d, Target: d, Optional: true})
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

// start starts a builder whose output is collected.
func start(t testing.TB, s sandbox.Spec) (*sandbox.Process, func() string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s.Output = w
	p, err := sandbox.Start(t.Context(), s)
	w.Close()
	if err != nil {
		t.Fatalf("start the builder: %v", err)
	}
	var out bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		io.Copy(&out, r)
		r.Close()
	}()
	return p, func() string {
		<-read
		return out.String()
	}
}

// run runs a builder that must succeed, and returns what it wrote.
func run(t testing.TB, s sandbox.Spec) string {
	t.Helper()
	p, output := start(t, s)
	exit, err := p.Wait()
	if err != nil || exit.Status != 0 {
		t.Fatalf("the builder ended with %v, error %v:\n%s", exit, err, output())
	}
	return output()
}

func TestTrivial(t *testing.T) {
	t.Log(run(t, shell(world(t), "id; echo $$; ls -la / /dev /nix /etc; cat /proc/mounts; ip a; hostname; env; ls /proc; uname -a; cat /proc/self/status; umask; ulimit -a; ls -la /proc/self/fd")))
}

func TestTrivialOpen(t *testing.T) {
	t.Log(run(t, shell(nil, "id; echo $$; env; cat /proc/self/status;ls -la /proc/self/fd")))
}

func TestProbeX(t *testing.T) { t.Logf("%+v", sandbox.Probe(t.Context())) }

var _ = exec.Command
var _ = strings.Join
