package daemon_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/worker"
)

// tmpfs mounts a file system of a size at dir, or changes its size.
func tmpfs(t *testing.T, dir, options string, flags uintptr) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", flags, options); err != nil {
		t.Fatalf("mount tmpfs with %s at %s: %v", options, dir, err)
	}
	if flags == 0 {
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }) // some tests have done so
	}
}

// fill uses up the space of a file system, and gives a function that gives it
// back.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// addTree adds an object by its contents, as nix-store --add does.
func addTree(t *testing.T, c *worker.Client, o storetest.Object) error {
	t.Helper()
	_, err := c.AddDump(t.Context(), store.Dump{
		Name: o.Path().Name(), NAR: true, Contents: o.Reader(),
		Spec: storepath.Spec{Method: storepath.Recursive, Algorithm: nixhash.SHA256},
	}, store.AddOptions{})
	return err
}

// addFlat adds the same bytes as the contents of a file.
func addFlat(t *testing.T, c *worker.Client, o storetest.Object) error {
	t.Helper()
	_, err := c.AddDump(t.Context(), store.Dump{
		Name: o.Path().Name(), Contents: bytes.NewReader(o.NAR),
		Spec: storepath.Spec{Method: storepath.Flat, Algorithm: nixhash.SHA256},
	}, store.AddOptions{})
	return err
}

func TestStoreOnAFullDisk(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	root := testenv.Scratch(t)
	disk := filepath.Join(root, "nix/store")
	tmpfs(t, disk, "size=3m", 0)
	r := startRig(t, root)
	c := r.client()
	small, second, third := file(t, "small", 1000), file(t, "second", 1000), file(t, "third", 1000)
	big := file(t, "big", 12<<20)
	after := file(t, "after", 1000, big.Path())
	r.add(c, small)
	raw := r.greet()

	for name, upload := range map[string]func() error{
		"one":  func() error { return c.Add(t.Context(), big.Info, big.Reader(), unsigned) },
		"tree": func() error { return addTree(t, c, big) },
		"file": func() error { return addFlat(t, c, big) },
		"many": func() error {
			return c.AddMultiple(t.Context(), &storetest.Source{Objects: []storetest.Object{second, big, after, third}}, unsigned)
		},
	} {
		err := upload()
		says(t, err, "No space left on device", disk)
		if !raw.asks(small) {
			t.Errorf("%s: another connection does not see what was there", name)
		}
		r.valid(c, true, small)
		r.valid(c, false, big, after, third)
	}
	// A user of stock Nix reads what scripts look for.
	nix := testenv.Nix(t, newest).WithBind(filepath.Join(root, "nix"), "/nix").WithBind(filepath.Dir(r.socket), filepath.Dir(r.socket)).WithRemote(r.socket)
	nix.WriteFile(t, "large", strings.Repeat("large", 2<<20))
	says(t, errors.New(nix.RunFails(t, "nix-store", "--add", "large")), "No space left on device")
	// What of the many was complete by then stays.
	r.valid(c, true, second)
	r.holds(small, second)
	r.add(c, third) // there is space again

	tmpfs(t, disk, "size=64m", unix.MS_REMOUNT)
	if err := c.AddMultiple(t.Context(), &storetest.Source{Objects: []storetest.Object{big, after}}, unsigned); err != nil {
		t.Errorf("with more space: %v", err)
	}
	r.holds(small, second, third, big, after)
	if err := r.proc.Stop(); err != nil {
		t.Errorf("the daemon ends with %v", err)
	}
	r.start()
	r.holds(small, second, third, big, after)
	stockVerify(t, root)
}

// Killed while the disk is full, and started while it still is.
func TestCrashOnAFullDisk(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	root := testenv.Scratch(t)
	disk := filepath.Join(root, "nix/store")
	tmpfs(t, disk, "size=6m", 0)
	r := startRig(t, root)
	big := file(t, "big", 4<<20)
	g := gated(big, 3<<20)
	c := r.client()
	done := make(chan error, 1)
	go func() { done <- c.Add(t.Context(), big.Info, g, unsigned) }()
	r.unpacking(2 << 20)
	free := fill(t, disk)
	r.proc.Kill()
	close(g.open)
	<-done
	r.start()
	for _, name := range r.entries() {
		if name != "filler" && name != big.Path().Base()+".lock" {
			t.Errorf("the store directory holds %s", name)
		}
	}
	r.proc.Kill()
	free()
	r.afterCrash(big)
}

// No room for more files, though for bytes.
func TestStoreWithoutInodes(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	root := testenv.Scratch(t)
	disk := filepath.Join(root, "nix/store")
	tmpfs(t, disk, "nr_inodes=100", 0)
	r := startRig(t, root)
	c := r.client()
	files := map[string]string{}
	for i := range 200 {
		files[fmt.Sprintf("d%d/f%d", i%7, i)] = "x"
	}
	tree, small := storetest.Tree(t, nixDir, "tree", files), file(t, "small", 10)
	says(t, c.Add(t.Context(), tree.Info, tree.Reader(), unsigned), "No space left on device", disk)
	r.add(c, small)
	r.holds(small)
	tmpfs(t, disk, "nr_inodes=1000", unix.MS_REMOUNT)
	r.add(c, tree)
	r.holds(small, tree)
	stockVerify(t, root)
}

func TestStateOnAFullDisk(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	root := testenv.Scratch(t)
	disk := filepath.Join(root, "nix/var")
	tmpfs(t, disk, "size=12m", 0)
	r := startRig(t, root)
	c, other := r.client(), r.client()
	first, second, garbage := file(t, "first", 1000), file(t, "second", 1000), file(t, "garbage", 1000)
	r.add(c, first)
	r.add(other, garbage)
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the garbage is no temporary root any more", func() bool {
		return len(listing(t, filepath.Join(r.state(), "temproots"))) == 1
	})
	var many []storetest.Object
	for i := range 300 {
		many = append(many, file(t, fmt.Sprintf("several-%d", i), 10, first.Path()))
	}
	free := fill(t, disk)
	for range 2 {
		for _, upload := range []func() error{
			func() error { return c.AddMultiple(t.Context(), &storetest.Source{Objects: many}, unsigned) },
			func() error { return addTree(t, c, many[0]) },
		} {
			err := upload()
			says(t, err, disk)
			if err != nil && !bytes.Contains([]byte(err.Error()), []byte("full")) {
				says(t, err, "No space left on device")
			}
			r.valid(c, true, first)
			r.valid(c, false, many...)
			r.holds(first, garbage)
		}
	}
	// A collection has space set aside for it.
	if _, err := r.client().CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit}); err != nil {
		t.Errorf("collecting garbage on a full disk: %v", err)
	}
	r.holds(first)

	// What could only be written in part does not spoil what comes after it.
	free()
	r.add(c, second)
	r.rooted(first, second)
	free = fill(t, disk)
	r.proc.Kill()

	// Started on the full disk, the daemon may fail, but not without saying why.
	p := strataCommand(t, append([]string{"daemon", "--socket", r.socket}, r.args...)...)
	refused := testenv.Start(t, p)
	eventually(t, "it listens or ends", func() bool {
		select {
		case <-refused.Done():
			return true
		default:
			conn, err := os.Stat(r.socket)
			return err == nil && conn.Mode().Type() == os.ModeSocket && reachable(r.socket)
		}
	})
	select {
	case <-refused.Done():
		says(t, errors.New(refused.Output()), disk)
	default:
		if err := refused.Stop(); err != nil {
			t.Error(err)
		}
	}
	free()
	r.start()
	c = r.client()
	if err := c.AddMultiple(t.Context(), &storetest.Source{Objects: append([]storetest.Object{first}, many...)}, unsigned); err != nil {
		t.Error(err)
	}
	if n := len(stockVerify(t, root)); n != 302 {
		t.Errorf("stock Nix sees %d paths", n)
	}
}

// rooted fails unless the objects are temporary roots, and everything among the
// temporary roots is a store path.
func (r *rig) rooted(objects ...storetest.Object) {
	r.t.Helper()
	found := storepath.Set{}
	dir := filepath.Join(r.state(), "temproots")
	for _, name := range listing(r.t, dir) {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			r.t.Fatal(err)
		}
		for root := range strings.SplitSeq(strings.TrimSuffix(string(text), "\x00"), "\x00") {
			p, err := nixDir.Parse(root)
			if err != nil {
				r.t.Errorf("temporary root %q: %v", root, err)
			}
			found.Add(p)
		}
	}
	for _, o := range objects {
		if !found.Has(o.Path()) {
			r.t.Errorf("%s is no temporary root", o.Path())
		}
	}
}
