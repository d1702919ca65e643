package overlayfs

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/mount"
	"github.com/strata-nix/strata/internal/testenv"
)

// inEach runs a test with real mounts in a mount namespace of its own: once as
// root, with trusted marks, and once in a user namespace, with user marks. The
// box lies on a tmpfs.
func inEach(t *testing.T, test func(t *testing.T, b *box)) { inEachOn(t, true, test) }

// inEachOnDisk is inEach with the box on the disk, whose behaviour differs in
// places. It is slower: unmounting an overlay flushes the whole file system of
// its upper, with all that other processes write there.
func inEachOnDisk(t *testing.T, test func(t *testing.T, b *box)) { inEachOn(t, false, test) }

func inEachOn(t *testing.T, tmpfs bool, test func(t *testing.T, b *box)) {
	if os.Geteuid() == 0 {
		t.Run("root", func(t *testing.T) {
			if testenv.Isolate(t, testenv.Namespace{}) {
				test(t, newBox(t, tmpfs))
			}
		})
	}
	t.Run("user", func(t *testing.T) {
		if testenv.Isolate(t, testenv.Namespace{User: true}) {
			test(t, newBox(t, tmpfs))
		}
	})
}

// box is a directory of a test with the parts of an overlay in it: lower1,
// lower2, upper, work, merged.
type box struct {
	t   *testing.T
	dir string
}

func newBox(t *testing.T, tmpfs bool) *box {
	b := &box{t: t, dir: testenv.Scratch(t)}
	var fs unix.Statfs_t
	if err := unix.Statfs(b.dir, &fs); err != nil {
		t.Fatal(err)
	}
	if tmpfs || fs.Type == unix.OVERLAYFS_SUPER_MAGIC { // an overlay, as in a container
		b.tmpfs("")
		if _, err := getxattr(b.dir, "user.test"); errors.Is(err, unix.EOPNOTSUPP) {
			testenv.Skip(t, "tmpfs has no user attributes (needs Linux 6.6)")
		}
	}
	for _, d := range []string{"lower1", "lower2", "upper", "work", "merged"} {
		b.mkdir(d)
	}
	return b
}

func (b *box) path(name string) string { return filepath.Join(b.dir, name) }

func (b *box) mkdir(name string) string {
	b.t.Helper()
	if err := os.MkdirAll(b.path(name), 0o755); err != nil {
		b.t.Fatal(err)
	}
	return b.path(name)
}

func (b *box) write(name, content string) string {
	b.t.Helper()
	b.mkdir(filepath.Dir(name))
	if err := os.WriteFile(b.path(name), []byte(content), 0o644); err != nil {
		b.t.Fatal(err)
	}
	return b.path(name)
}

// read returns the content of a file, or the errno as text.
func (b *box) read(name string) string {
	data, err := os.ReadFile(b.path(name))
	if err != nil {
		return errText(err)
	}
	return string(data)
}

func errText(err error) string {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

// list returns the sorted names in a directory, or the errno as text.
func (b *box) list(name string) string {
	entries, err := os.ReadDir(b.path(name))
	if err != nil {
		return errText(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func (b *box) symlink(to, name string) string {
	b.t.Helper()
	if err := os.Symlink(to, b.path(name)); err != nil {
		b.t.Fatal(err)
	}
	return b.path(name)
}

func (b *box) tmpfs(name string) string {
	b.t.Helper()
	dir := b.mkdir(name)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		b.t.Fatal(err)
	}
	b.unmountLater(dir)
	return dir
}

func (b *box) bind(from, to string) {
	b.t.Helper()
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		b.t.Fatal(err)
	}
	b.unmountLater(to)
}

// unmountLater cleans up what a test leaves mounted, whatever it is.
func (b *box) unmountLater(target string) {
	b.t.Cleanup(func() {
		for unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
			id, err := mount.Identify(target)
			if err != nil || !id.Root {
				return
			}
		}
	})
}

// options are those of an overlay of lower1 and the upper.
func (b *box) options(lowers ...string) Options {
	if len(lowers) == 0 {
		lowers = []string{"lower1"}
	}
	o := Options{Upper: b.path("upper"), Work: b.path("work"), Target: b.path("merged")}
	for _, l := range lowers {
		o.Lowers = append(o.Lowers, b.path(l))
	}
	return o
}

func (b *box) mount(o Options) *OverlayMount {
	b.t.Helper()
	m, err := Mount(b.t.Context(), o)
	if err != nil {
		b.t.Fatal(err)
	}
	b.unmountLater(o.Target)
	return m
}

func (b *box) refresh() {
	b.t.Helper()
	if err := Refresh(b.t.Context(), b.path("merged")); err != nil {
		b.t.Fatal(err)
	}
}

// want compares two texts that describe a state.
func (b *box) want(what, got, want string) {
	b.t.Helper()
	if got != want {
		b.t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// hold starts a process with its working directory in dir. It ends with the
// test, or when the result is called.
func (b *box) hold(dir string) (end func()) {
	b.t.Helper()
	return b.holdWith(dir, "echo ready; cat")
}

// holdWith runs a shell script that says ready and then reads its standard
// input until that ends.
func (b *box) holdWith(dir, script string) (end func()) {
	b.t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(b.t.Context()), "/bin/sh", "-c", script)
	cmd.Dir = b.path(dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		b.t.Fatalf("holder: %q %v", line, err)
	}
	end = func() { in.Close(); io.Copy(io.Discard, out); cmd.Wait() }
	b.t.Cleanup(end)
	return end
}

// mounts lists what is mounted at a target, bottom first.
func (b *box) mounts(target string) string {
	b.t.Helper()
	stack, err := Inspect(target)
	if err != nil {
		b.t.Fatal(err)
	}
	var types []string
	for _, m := range stack {
		types = append(types, m.FSType)
	}
	return strings.Join(types, " ")
}

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q does not mention %q", text, p)
		}
	}
}

func contextWithCancel(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithCancel(t.Context())
}

func join(s []string) string { return strings.Join(s, ",") }
