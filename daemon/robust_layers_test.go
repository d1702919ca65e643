package daemon_test

import (
	"bytes"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/worker"
)

// layers is a layered store whose mount belongs to the test, as an owner who made
// it by hand.
type layers struct {
	*rig
	lower string // root of the lower store
	mount *overlayfs.OverlayMount
}

// newLayers makes a lower store with objects in it, and mounts. prepare, which may
// be nil, is called with the lower's root before anything is in it.
func newLayers(t *testing.T, prepare func(lower string), objects ...storetest.Object) *layers {
	t.Helper()
	dir := testenv.Scratch(t)
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type == unix.OVERLAYFS_SUPER_MAGIC { // which cannot hold an upper
		tmpfs(t, dir, "size=256m", 0)
	}
	l := &layers{lower: filepath.Join(dir, "lower")}
	if prepare != nil {
		prepare(l.lower)
	}
	fillStore(t, l.lower, objects...)
	for _, d := range []string{"upper", "work", "merged/nix/store"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l.rig = newRig(t, filepath.Join(dir, "merged"))
	l.args = []string{"--store", l.uri("read-only=true", nil), "--force-trusted"}
	l.remount(t)
	t.Cleanup(func() {
		_ = unix.Unmount(l.store(), unix.MNT_DETACH) // what a failed test left
	})
	return l
}

// fillStore adds objects to the store below root.
func fillStore(t *testing.T, root string, objects ...storetest.Object) {
	t.Helper()
	s, err := local.Open(t.Context(), local.Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		if err := s.Add(t.Context(), o.Info, o.Reader(), unsigned); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// uri is the store, over a lower with some parameters.
func (l *layers) uri(lower string, more url.Values) string {
	dir := filepath.Dir(l.root)
	v := url.Values{
		"root": {l.root}, "state": {dir + "/state"}, "upper-layer": {dir + "/upper"},
		"lower-store": {"local?root=" + l.lower + "&" + lower},
	}
	for name, values := range more {
		v[name] = values
	}
	return "local-overlay://?" + v.Encode()
}

func (l *layers) remount(t *testing.T) {
	t.Helper()
	dir := filepath.Dir(l.root)
	m, err := overlayfs.Mount(t.Context(), overlayfs.Options{
		Lowers: []string{filepath.Join(l.lower, "nix/store")}, Upper: dir + "/upper", Work: dir + "/work", Target: l.store(),
	})
	if err != nil {
		t.Fatal(err)
	}
	l.mount = m
}

// unmount is what the owner does, without asking anybody.
func (l *layers) unmount(t *testing.T) {
	t.Helper()
	if err := unix.Unmount(l.store(), 0); err != nil {
		t.Fatalf("unmounting: %v", err)
	}
}

// inMerged tells whether a process of the machine sees an object.
func (l *layers) inMerged(o storetest.Object) bool {
	_, err := os.Lstat(filepath.Join(l.store(), o.Path().Base()))
	return err == nil
}

// nar reads an object through the daemon.
func nar(t *testing.T, c *worker.Client, o storetest.Object) error {
	t.Helper()
	var got bytes.Buffer
	if err := c.NarFromPath(t.Context(), o.Path(), &got); err != nil {
		return err
	}
	if !bytes.Equal(got.Bytes(), o.NAR) {
		return fmt.Errorf("%s has other contents", o.Path().Name())
	}
	return nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// The owner of the mount can take it away whenever no request is under way, and
// put it back.
func TestNothingIsHeldOpen(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	low := file(t, "low", 1000)
	l := newLayers(t, nil, low)
	l.start()
	var mine []storetest.Object
	for round := range 8 {
		c := l.client()
		up := file(t, fmt.Sprintf("up-%d", round), 100_000, low.Path())
		mine = append(mine, up)
		l.add(c, up)
		must(t, addTree(t, c, file(t, fmt.Sprintf("tree-%d", round), 2<<20)))
		must(t, nar(t, c, low))
		must(t, nar(t, c, up))
		bad := file(t, "bad", 100_000)
		says(t, c.Add(t.Context(), bad.Info, bytes.NewReader(bad.NAR[:50_000]), unsigned), "bad")
		if _, err := c.Verify(t.Context(), store.VerifyOptions{CheckContents: true}); err != nil {
			t.Error(err)
		}
		if _, err := c.CollectGarbage(t.Context(), store.GCOptions{Action: store.ReturnDead, MaxFreed: store.NoLimit}); err != nil {
			t.Error(err)
		}
		must(t, nar(t, c, up))
		l.unmount(t)

		// As long as it is away nothing is written to what lies under it.
		other := file(t, "other", 100)
		err := c.Add(t.Context(), other.Info, other.Reader(), unsigned)
		says(t, err, l.store(), "nothing is mounted there")
		says(t, addTree(t, c, other), l.store(), "nothing is mounted there")
		says(t, nar(t, c, low), "low", l.store())
		if _, err := c.CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit}); err == nil {
			t.Error("garbage was collected without the mount")
		}
		if names := listing(t, l.store()); len(names) > 0 {
			t.Errorf("below the mount there are %q", names)
		}
		if _, err := os.Stat(l.store() + "/.links"); err == nil {
			t.Error("below the mount there is .links")
		}
		l.valid(c, true, up, low) // the databases are there
		l.valid(c, false, other)
		l.remount(t)
		must(t, nar(t, c, low))
		must(t, nar(t, c, up))
	}
	l.valid(l.client(), true, mine...)
}

// Another mount than the one that was checked at the start is noticed.
func TestWrongMountIsNoticed(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	low, up := file(t, "low", 1000), file(t, "up", 1000)
	l := newLayers(t, nil, low)
	l.start()
	c := l.client()
	must(t, nar(t, c, low))
	l.unmount(t)
	tmpfs(t, l.store(), "size=1m", 0)
	says(t, c.Add(t.Context(), up.Info, up.Reader(), unsigned), l.store(), "tmpfs")
	if names := listing(t, l.store()); len(names) > 0 {
		t.Errorf("written to the wrong mount: %q", names)
	}
	l.unmount(t)
	l.remount(t)
	l.add(c, up)
	// A second mount over it, of the same layers in another order of things.
	if err := unix.Mount(l.lower+"/nix/store", l.store(), "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	more := file(t, "more", 1000)
	says(t, c.Add(t.Context(), more.Info, more.Reader(), unsigned), "mounted incorrectly")
	if names := listing(t, l.lower+"/nix/store"); slices.Contains(names, more.Path().Base()) {
		t.Error("written to the lower")
	}
	l.unmount(t)
	l.add(c, more)
}

// A lower that goes away is never "not valid".
func TestLowerGoesAway(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	low, up, own := file(t, "low", 1000), file(t, "up", 1000), file(t, "own", 1000)
	l := newLayers(t, func(lower string) { tmpfs(t, lower, "size=16m", 0) }, low)
	l.start()
	c := l.client()
	l.add(c, own)
	l.valid(c, true, low, own)

	// The database goes.
	db := filepath.Join(l.lower, "nix/var/nix/db")
	if err := os.Rename(db, db+".away"); err != nil {
		t.Fatal(err)
	}
	gone := func() {
		t.Helper()
		for _, err := range []error{
			func() error { _, err := c.ValidPaths(t.Context(), pathsOf(low)); return err }(),
			func() error { _, err := c.PathInfos(t.Context(), pathsOf(low)); return err }(),
			c.Add(t.Context(), up.Info, up.Reader(), unsigned),
			addTree(t, c, up),
		} {
			says(t, err, "lower 1 (local?", l.lower)
		}
		l.valid(c, true, own) // does not ask the lower
		if names := listing(t, filepath.Dir(l.root)+"/upper"); len(names) != 1 {
			t.Errorf("the upper layer has %q", names)
		}
	}
	gone()
	if err := os.Rename(db+".away", db); err != nil {
		t.Fatal(err)
	}
	l.valid(c, true, low, own)

	// The whole file system goes. Nobody holds on to it for long, but for the mount.
	eventually(t, "the lower can be unmounted", func() bool { return unix.Unmount(l.lower, 0) == nil })
	gone()
	l.unmount(t)
	_, err := c.PathInfos(t.Context(), pathsOf(low))
	says(t, err, "lower 1 (local?")
	tmpfs(t, l.lower, "size=16m", 0)
	fillStore(t, l.lower, low)
	l.remount(t)
	l.valid(c, true, low, own)
	l.add(c, up)
	must(t, nar(t, c, low))
}

// A lower grows behind the daemon's back: everybody sees what it gained, also who
// looked for it in vain.
func TestLowerGrows(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	for _, state := range []string{"read-only=true", "read-only=false"} {
		low := file(t, "low", 1000)
		l := newLayers(t, nil, low)
		l.args = []string{"--store", l.uri(state, nil), "--force-trusted"}
		l.start()
		c := l.client()
		must(t, nar(t, c, low))
		for i := range 5 {
			o := file(t, fmt.Sprintf("new-%d", i), 1000, low.Path())
			up := file(t, fmt.Sprintf("up-%d", i), 1000, o.Path())
			if l.inMerged(o) { // it gets a negative entry in the kernel's cache
				t.Error("there already")
			}
			says(t, nar(t, c, o), "not valid")
			l.valid(c, false, o)
			fillStore(t, l.lower, o)
			l.valid(c, true, o)
			if i%2 == 0 {
				must(t, nar(t, c, o))
			}
			if !l.inMerged(o) {
				t.Errorf("%s: valid, and does not show in the merged directory", o.Path().Name())
			}
			l.add(c, up)
		}
		if !strings.Contains(stockDump(t, l), "new-4") {
			t.Error("the upper's database lacks what its objects refer to")
		}
	}
}

// stockDump has strata dump the upper's own database.
func stockDump(t *testing.T, l *layers) string {
	t.Helper()
	out, err := strata(t, "dump-db", "--store", "local?read-only=true&state="+filepath.Dir(l.root)+"/state&real="+filepath.Dir(l.root)+"/upper")
	if err != nil {
		t.Fatal(out)
	}
	return out
}

// The hook runs where the daemon is: it finds and may change the daemon's mounts.
func TestRemountHook(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	both := file(t, "both", 1000)
	l := newLayers(t, nil)
	hook := filepath.Join(filepath.Dir(l.root), "hook")
	script := fmt.Sprintf("#!/bin/sh\nset -e\nreadlink /proc/self/ns/mnt > %[1]s.ns\necho \"$@\" > %[1]s.args\npwd > %[1]s.pwd\nmount -o remount \"$1\"\n", hook)
	if err := os.WriteFile(hook, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	l.args = []string{"--store", l.uri("read-only=true", url.Values{"remount-hook": {hook}}), "--force-trusted"}
	l.start()
	c := l.client()
	l.add(c, both)
	fillStore(t, l.lower, both)
	hungUp(t, c, filepath.Dir(l.root)+"/state")
	c = l.client()
	if _, err := c.CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit}); err != nil {
		t.Error(err)
	}
	ns, err := os.Readlink("/proc/self/ns/mnt")
	must(t, err)
	for suffix, want := range map[string]string{".ns": ns, ".args": l.store(), ".pwd": "/"} {
		if got, err := os.ReadFile(hook + suffix); strings.TrimSpace(string(got)) != want {
			t.Errorf("the hook has %s %q, want %q (%v)", suffix[1:], got, want, err)
		}
	}
	if !l.inMerged(both) {
		t.Error("the lower's copy does not show")
	}
	if names := listing(t, filepath.Dir(l.root)+"/upper"); len(names) != 0 {
		t.Errorf("the upper layer has %q", names)
	}
	must(t, nar(t, c, both))
	l.unmount(t)
	l.remount(t)

	// A hook that fails is an error that shows what it said.
	if err := os.WriteFile(hook, []byte("#!/bin/sh\necho cannot remount today\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	second := file(t, "second", 1000)
	l.add(c, second)
	fillStore(t, l.lower, second)
	hungUp(t, c, filepath.Dir(l.root)+"/state")
	_, err = l.client().CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit})
	says(t, err, hook, "exit status 3", "cannot remount today")
}

// At boot the lower may come after the daemon.
func TestLowerThatComesLate(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	low := file(t, "low", 1000)
	l := newLayers(t, nil, low)
	l.unmount(t)
	out, err := strata(t, append([]string{"daemon", "--socket", l.socket}, l.args...)...)
	if err == nil {
		t.Error("the daemon served a store without its mount")
	}
	if !strings.Contains(out, "nothing is mounted there") || !strings.Contains(out, l.store()) {
		t.Errorf("it says %q", out)
	}
	waiting := testenv.Start(t, strataCommand(t, append([]string{"daemon", "--socket", l.socket, "--wait-for-lowers", "1m"}, l.args...)...))
	eventually(t, "it says what it waits for", func() bool { return strings.Contains(waiting.Output(), "waiting") })
	l.remount(t)
	waiting.WaitSocket(l.socket)
	must(t, nar(t, l.client(), low))
}
