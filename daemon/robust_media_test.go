package daemon_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/image"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/storetest"
)

// readOnlyMount shows dir at itself, and lets nobody write to it.
func readOnlyMount(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }) // the test may have
	if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
}

// asMaster takes away what SQLite leaves beside a database, as whoever masters
// media does.
func asMaster(t *testing.T, root string) {
	t.Helper()
	db := filepath.Join(root, "nix/var/nix/db/db.sqlite")
	for _, suffix := range []string{"-wal", "-shm"} {
		fi, err := os.Stat(db + suffix)
		if err == nil && suffix == "-wal" && fi.Size() > 0 {
			t.Errorf("the log has %d bytes after an orderly end", fi.Size())
		}
		if err := os.Remove(db + suffix); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
}

// serves tries all that a store on read-only media can do, and must not.
func (r *rig) serves(objects ...storetest.Object) {
	r.t.Helper()
	c := r.client()
	r.valid(c, true, objects...)
	n := 0
	for _, err := range c.AllPaths(r.t.Context()) {
		must(r.t, err)
		n++
	}
	if n != len(objects) {
		r.t.Errorf("%d paths, want %d", n, len(objects))
	}
	for _, o := range objects {
		must(r.t, nar(r.t, c, o))
	}
	extra := file(r.t, "extra", 100)
	says(r.t, c.Add(r.t.Context(), extra.Info, extra.Reader(), unsigned), "read-only")
	says(r.t, addTree(r.t, c, extra), "read-only")
	_, err := c.CollectGarbage(r.t.Context(), store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit})
	says(r.t, err, "read-only")
}

func TestStoreOnReadOnlyMedia(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	chain := storetest.Chain(t, nixDir, 3)
	root := filepath.Join(testenv.Scratch(t), "media")
	fillStore(t, root, chain...)
	asMaster(t, root)
	readOnlyMount(t, root)
	before := listing(t, root+"/nix/var/nix/db")
	r := startRig(t, root, "--store", "local?read-only=true&root="+root)
	r.serves(chain...)
	if after := listing(t, root+"/nix/var/nix/db"); strings.Join(after, " ") != strings.Join(before, " ") {
		t.Errorf("beside the database there are %q", after)
	}
	must(t, r.proc.Stop())

	// Opened for writing it fails at once, and says where.
	out, err := strata(t, "daemon", "--store", "local?root="+root, "--socket", r.socket)
	if err == nil || !strings.Contains(out, "read-only file system") || !strings.Contains(out, root) {
		t.Errorf("opened for writing: %v, %s", err, out)
	}
}

func TestLayersOverReadOnlyMedia(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	chain := storetest.Chain(t, nixDir, 3)
	l := newLayers(t, nil, chain...)
	l.unmount(t)
	asMaster(t, l.lower)
	readOnlyMount(t, l.lower)
	l.remount(t)
	l.start()
	l.worksOver(chain)
}

// worksOver uses a layered store, whose lower has the objects of a chain.
func (l *layers) worksOver(chain []storetest.Object) {
	t := l.t
	t.Helper()
	c := l.client()
	l.valid(c, true, chain...)
	top := file(t, "top", 1000, chain[len(chain)-1].Path())
	l.add(c, top)
	for _, o := range append(chain, top) {
		must(t, nar(t, c, o))
	}
	if damaged, err := c.Verify(t.Context(), store.VerifyOptions{CheckContents: true}); damaged || err != nil {
		t.Errorf("verifying: %v, %v", damaged, err)
	}
	dump := stockDump(t, l)
	for _, o := range append(chain, top) {
		if !strings.Contains(dump, o.Path().Base()) {
			t.Errorf("the upper's database lacks %s", o.Path().Name())
		}
	}
	must(t, l.proc.Stop())
}

func TestLayersOverAnImage(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	mkfs := testenv.EROFSMount(t)
	chain := storetest.Chain(t, nixDir, 3)
	l := newLayers(t, nil, chain...)
	l.unmount(t)
	asMaster(t, l.lower)
	file := filepath.Join(filepath.Dir(l.root), "lower.erofs")
	if out, err := exec.Command(mkfs, file, l.lower).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := testenv.RemoveAll(l.lower); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(l.lower, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := image.Mount(t.Context(), image.Options{Source: file, Target: l.lower}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(l.lower, unix.MNT_DETACH) }) // the namespace ends anyway
	l.remount(t)
	l.start()
	l.worksOver(chain)
	l.unmount(t)
}

// Changes that were never written back cannot be read without writing. The daemon
// must neither leave them out nor be silent about it.
func TestLogOnReadOnlyMedia(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	chain := storetest.Chain(t, nixDir, 3)
	r := startRig(t, filepath.Join(testenv.Scratch(t), "media"))
	r.add(r.client(), chain...)
	r.proc.Kill()
	db := r.state() + "/db/db.sqlite"
	if fi, err := os.Stat(db + "-wal"); err != nil || fi.Size() == 0 {
		t.Fatalf("there is no log: %v", err)
	}
	uri := "local?read-only=true&root=" + r.root
	// With the index of the log beside it, it can be read; nothing may be left out.
	readOnlyMount(t, r.root)
	if out, err := strata(t, "info", "--all", "--store", uri); err == nil && strings.Count(out, "chain-") < len(chain) ||
		err != nil && !strings.Contains(out, "not been written back") {
		t.Errorf("with an index: %v, %s", err, out)
	}
	if err := unix.Unmount(r.root, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(db + "-shm"); err != nil {
		t.Fatal(err)
	}
	readOnlyMount(t, r.root)
	for _, args := range [][]string{
		{"daemon", "--store", uri, "--socket", r.socket},
		{"info", "--all", "--store", uri},
		{"dump-db", "--store", uri},
	} {
		out, err := strata(t, args...)
		if err == nil || !strings.Contains(out, db+"-wal") || !strings.Contains(out, "not been written back") {
			t.Errorf("strata %s: %v, %s", args[0], err, out)
		}
	}
	// What the message advises helps.
	if err := unix.Unmount(r.root, 0); err != nil {
		t.Fatal(err)
	}
	if out, err := strata(t, "info", "--all", "--store", "local?root="+r.root); err != nil {
		t.Errorf("opened for writing: %s", out)
	}
	asMaster(t, r.root)
	readOnlyMount(t, r.root)
	r.args = []string{"--store", uri, "--force-trusted"}
	r.start()
	r.serves(chain...)
}
