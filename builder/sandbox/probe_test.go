package sandbox_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/builder/sandbox"
	"github.com/strata-nix/strata/internal/testenv"
)

func TestProbe(t *testing.T) {
	testenv.Bwrap(t)
	a := sandbox.Probe(t.Context())
	if a.Isolation != nil || a.Bwrap == "" {
		t.Errorf("%+v", a)
	}
}

// Where user namespaces are forbidden, that is what is said, and by Start too.
func TestNoUserNamespaces(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{User: true}) {
		return
	}
	in := world(t)
	spec := shell(in, "")
	spec.KeepGroups = true // in a user namespace they cannot be dropped
	if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	wants(t, sandbox.Probe(t.Context()).Isolation, "user namespaces", "max_user_namespaces is 0")
	wants(t, startError(t, spec), "user namespaces", "max_user_namespaces is 0")
	spec = shell(nil, "") // without a sandbox it goes on
	spec.KeepGroups = true
	run(t, spec)
}

// Where parts of /proc are covered, as in many containers, no other can be mounted.
func TestCoveredProc(t *testing.T) {
	testenv.Root(t) // others of the machine cannot be unmounted in a user namespace
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	in := world(t)
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) { // one that is not covered would do
		if f := strings.Fields(line); f[2] == "proc" && f[1] != "/proc" {
			unix.Unmount(f[1], unix.MNT_DETACH)
		}
	}
	if err := unix.Mount("tmpfs", "/proc/bus", "tmpfs", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	wants(t, sandbox.Probe(t.Context()).Isolation, "a /proc of its own", "systempaths=unconfined")
	wants(t, startError(t, shell(in, "")), "a /proc of its own")
}

func TestNoBwrap(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	in := world(t)
	bwrap := testenv.Tool(t, "bwrap")
	if err := unix.Mount(os.DevNull, bwrap, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	wants(t, sandbox.Probe(t.Context()).Isolation, "bubblewrap", "install")
	wants(t, startError(t, shell(in, "")), "bubblewrap", "install")
}

func wants(t *testing.T, err error, words ...string) {
	t.Helper()
	if _, ok := errors.AsType[*sandbox.UnavailableError](err); !ok {
		t.Errorf("%T: %v", err, err)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%v: does not say %q", err, w)
		}
	}
}
