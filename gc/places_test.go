package gc

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/mount"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/storepath"
)

// A process in another mount namespace, in which the store, or an object of it, has
// another place.
func TestProcessesThatSeeTheStoreElsewhere(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	testenv.Tool(t, "mount")
	top := testenv.Scratch(t)
	object := func(name string) string {
		d := filepath.Join(top, "real/store", path(name).Base())
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		return d
	}
	object("a")
	b := object("b")
	object("c")
	for _, d := range []string{"elsewhere", "app", "root/inner"} {
		if err := os.MkdirAll(filepath.Join(top, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("sh", "-ec", `
		mount --bind real elsewhere
		mount --bind "$1" app
		cd elsewhere/store/"$2"
		echo ready
		read line`, "sh", b, path("a").Base())
	cmd.Dir = top
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stdin.Close()
		_ = cmd.Wait() // read meets the end
	}()
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	roots, err := ProcessRoots(t.Context(), "/proc", dir, filepath.Join(top, "real/store"))
	if err != nil {
		t.Fatal(err)
	}
	for name, end := range map[string]string{"a": "/cwd", "b": "/mountinfo"} {
		if !slices.ContainsFunc(roots[path(name)], func(l string) bool { return strings.HasSuffix(l, end) }) {
			t.Errorf("%s: %q", name, roots[path(name)])
		}
	}
	if len(roots[path("c")]) > 0 {
		t.Errorf("what nobody uses: %q", roots[path("c")])
	}
}

func TestLocate(t *testing.T) {
	table := []mount.Entry{
		{Device: mount.Device{Minor: 1}, Root: "/", Target: "/"},
		{Device: mount.Device{Minor: 2}, Root: "/nix", Target: "/nix"},
		{Device: mount.Device{Minor: 3}, Root: "/", Target: "/nix/store"},
		{Device: mount.Device{Minor: 4}, Root: "/", Target: "/nix/store", Deleted: true},
		{Device: mount.Device{Minor: 5}, Root: "/", Target: "/nixos"},
	}
	for path, want := range map[string]onDisk{
		"/nix/store":     {mount.Device{Minor: 3}, "/"},
		"/nix/store/up":  {mount.Device{Minor: 3}, "/up"},
		"/nix/var":       {mount.Device{Minor: 2}, "/nix/var"},
		"/nixos/nix":     {mount.Device{Minor: 5}, "/nix"},
		"/home":          {mount.Device{Minor: 1}, "/home"},
		"/nix/storehose": {mount.Device{Minor: 2}, "/nix/storehose"},
	} {
		if got, ok := locate(table, path); !ok || got != want {
			t.Errorf("%s: %+v", path, got)
		}
	}
	if got, ok := locate(nil, "/nix/store"); ok {
		t.Errorf("without mounts: %+v", got)
	}
}

func TestMentions(t *testing.T) {
	p := newPlaces(t.TempDir(), []string{"/nix/store"})
	hash := strings.Repeat("0", storepath.HashPartLen)
	for text, want := range map[string]string{
		"PATH=/nix/store/" + hash + "-a/bin:/nix/store/" + hash + "-b\x00": "a b",
		"/nix/store/" + hash + "-long" + strings.Repeat("x", 300):          "",
		"/nix/store/" + hash:                       "",
		"/nix/store/" + hash + "-":                 "",
		"/nix/store/" + hash + "-é":                "",
		"/nix/store/" + hash[:31] + "e-a":          "", // no digit
		"/nix/stor/" + hash + "-a":                 "",
		"/other/nix/store/" + hash + "-a=?+._-b c": "a=?+._-b",
		hash + "-a":                            "",
		"//nix/store/" + hash + "-a (deleted)": "a",
	} {
		var names []string
		for o := range p.mentions([]byte(text)) {
			names = append(names, o.Name())
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%.80q: %q, want %q", text, got, want)
		}
	}
}

// Whatever a process has in its environment, it is read to the end, and nothing is
// found that is no store path.
func FuzzMentions(f *testing.F) {
	f.Add([]byte("PATH=/nix/store/" + strings.Repeat("0", 32) + "-a/bin"))
	p := newPlaces(f.TempDir(), []string{"/nix/store"})
	f.Fuzz(func(t *testing.T, text []byte) {
		for o := range p.mentions(text) {
			if _, err := storepath.ParseBase(o.Base()); err != nil || !strings.Contains(string(text), "/nix/store/"+o.Base()) {
				t.Errorf("%s: %v", o, err)
			}
		}
	})
}
