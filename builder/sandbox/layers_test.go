package sandbox_test

import (
	"context"
	"encoding/binary"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/builder/sandbox"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/overlayfs"
)

// differences are the lines in which a store on OverlayFS may differ from one in a
// plain directory, with the reason; doc/posix.md tells what follows from them.
// Whatever else differs is an error, and so is a difference that is not there.
var differences = map[string]string{
	"the kind of file system is asked for: statfs":                       "it is an overlay",
	"handles of files are taken: name_to_handle_at":                      "only with nfs_export",
	"what was there before is renamed: directory":                        "a lower's directory is not renamed",
	"one of two names of what was there before is written to: the other": "copying up breaks hard links",
	"one of two names of what was there before is written to: one file":  "the same",
	"what was there before is in use and then written to: mapped":        "a mapping stays that of the lower's file",
}

// Builds that rely on habits of POSIX find them on a layered store.
func TestHabits(t *testing.T) {
	for name, ns := range map[string]testenv.Namespace{"root": {}, "user": {User: true}} {
		if os.Geteuid() != 0 && !ns.User {
			continue
		}
		t.Run(name, func(t *testing.T) {
			if testenv.Isolate(t, ns) {
				compareHabits(t, true)
			}
		})
	}
	t.Run("disk", func(t *testing.T) {
		testenv.Long(t)
		if testenv.Isolate(t, testenv.Namespace{}) {
			compareHabits(t, false)
		}
	})
}

func compareHabits(t *testing.T, memory bool) {
	testenv.Bwrap(t)
	dir := testenv.Scratch(t)
	if memory {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	}
	plain, lower, merged := filepath.Join(dir, "plain"), filepath.Join(dir, "lower"), filepath.Join(dir, "merged")
	for _, d := range []string{"upper", "work", "merged", "plain", "lower"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	fill(t, plain)
	fill(t, lower)
	m, err := overlayfs.Mount(t.Context(), overlayfs.Options{
		Lowers: []string{lower}, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work"), Target: merged,
	})
	if err != nil {
		testenv.Skipf(t, "needs OverlayFS: %v", err)
	}
	t.Cleanup(func() {
		if err := m.Unmount(context.Background(), overlayfs.UnmountOptions{}); err != nil {
			t.Error(err)
		}
	})
	want, got := habitsOn(t, plain), habitsOn(t, merged)
	if len(want) < 2*len(habits) || len(got) != len(want) {
		t.Fatalf("%d lines of %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	for i, line := range want {
		name, rest, _ := strings.Cut(line, ": ")
		step, _, _ := strings.Cut(rest, ":")
		reason := differences[name+": "+step]
		switch {
		case strings.Contains(line, "unexpected"):
			t.Errorf("on a plain directory: %s", line)
		case got[i] == line && reason != "":
			t.Errorf("no difference any more (%s): %s", reason, line)
		case got[i] != line && reason == "":
			t.Errorf("on a plain directory\n\t%s\non layers\n\t%s", line, got[i])
		}
	}
}

// fill makes what was there before.
func fill(t *testing.T, store string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"input/dir/file", "input/file", "old/dir/file", "old/file", "old/one", "old/shared", "old/gone/file"} {
		path := filepath.Join(store, name)
		must(os.MkdirAll(filepath.Dir(path), 0o755))
		must(os.WriteFile(path, []byte("input"), 0o644))
	}
	must(os.Link(filepath.Join(store, "input/file"), filepath.Join(store, "input/same")))
	must(os.Link(filepath.Join(store, "old/one"), filepath.Join(store, "old/two")))
}

// habitsOn runs the builder in a sandbox whose files are in a store.
func habitsOn(t *testing.T, store string) []string {
	t.Helper()
	own := filepath.Join(store, "x.drv.chroot")
	if err := os.Mkdir(own, 0o755); err != nil {
		t.Fatal(err)
	}
	in := world(t)
	for i, m := range in.Mounts {
		if m.Target == "/nix/store" {
			in.Mounts[i].Source = own
		}
	}
	in.Mounts = append(in.Mounts,
		sandbox.Mount{Source: filepath.Join(store, "input"), Target: "/nix/store/input"},
		sandbox.Mount{Kind: sandbox.Own, Source: filepath.Join(store, "old"), Target: "/nix/store/old"})
	s := shell(in, "")
	s.KeepGroups = true
	return strings.Split(strings.TrimSpace(run(t, program(t, s, "habits"))), "\n")
}

// listed is the inode number of a name as the directory says.
func (h *habit) listed(dir, name string) uint64 {
	d := h.open(dir, os.O_RDONLY)
	buf := make([]byte, 1<<16)
	for {
		n, err := unix.Getdents(int(d.Fd()), buf)
		if err != nil || n == 0 {
			h.must(err)
			return 0
		}
		for b := buf[:n]; len(b) > 0; { // struct linux_dirent64: inode, offset, length, type, name
			size := binary.NativeEndian.Uint16(b[16:])
			entry, _, _ := strings.Cut(string(b[19:size]), "\x00")
			if entry == name {
				return binary.NativeEndian.Uint64(b)
			}
			b = b[size:]
		}
	}
}

// socket talks to itself through a socket of that name.
func (h *habit) socket(name string) error {
	l, err := net.Listen("unix", name)
	if err != nil {
		return err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	defer l.Close()
	c, err := net.Dial("unix", name)
	if err != nil {
		return err
	}
	return c.Close()
}

func (h *habit) command(name string, args ...string) *exec.Cmd { return exec.Command(name, args...) }

func (h *habit) output(name string, args ...string) (string, error) {
	out, err := h.command(name, args...).CombinedOutput()
	return string(out), err
}
