package daemon_test

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/storetest"
)

// upperEntries lists what the upper layer has, and fails if there is a whiteout
// or anything temporary among it.
func (l *layers) upperEntries() []string {
	l.t.Helper()
	upper := filepath.Join(filepath.Dir(l.root), "upper")
	names := listing(l.t, upper)
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(upper, name), &st); err != nil {
			l.t.Fatal(err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFCHR {
			l.t.Errorf("%s is a whiteout", name)
		}
		if name[0] == '.' || gc.IsTempName(name) {
			l.t.Errorf("%s is left", name)
		}
	}
	return names
}

// A lower that is another daemon may be started anew, and be away for a while.
func TestLowerDaemonIsStartedAnew(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	low, late, up := file(t, "low", 1000), file(t, "late", 1000), file(t, "up", 1000)
	l := newLayers(t, nil, low)
	lower := startRig(t, l.lower)
	more := url.Values{"lower-store": {"unix://" + lower.socket + "?root=" + l.lower}}
	l.args = []string{"--store", l.uri("", more), "--force-trusted"}
	l.start()
	c := l.client()
	l.valid(c, true, low)
	must(t, nar(t, c, low))
	lower.proc.Kill()
	for range 2 {
		_, err := c.ValidPaths(t.Context(), pathsOf(low))
		says(t, err, "lower 1 (unix://"+lower.socket)
		says(t, c.Add(t.Context(), up.Info, up.Reader(), unsigned), "lower 1 (unix://"+lower.socket)
	}
	if names := l.upperEntries(); len(names) > 0 {
		t.Errorf("the upper layer has %q", names)
	}
	lower.start()
	l.valid(c, true, low)
	lower.add(lower.client(), late)
	l.valid(c, true, late)
	must(t, nar(t, c, late))
	l.add(c, up)
	l.valid(lower.client(), false, up)
}

// Killed in the middle of uploads and of collections, a layered store has neither
// whiteouts nor leftovers after the next start and collection.
func TestKillOfALayeredStore(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	var below []storetest.Object
	for i := range 150 {
		below = append(below, file(t, fmt.Sprintf("both-%d", i), 500))
	}
	l := newLayers(t, nil, below[:50]...)
	l.start()
	all := func() store.GCOptions { return store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit} }
	for round := range 4 {
		// Objects that only the upper has, and some that the lower gets, too.
		c := l.client()
		var own []storetest.Object
		for i := range 100 {
			own = append(own, storetest.Tree(t, nixDir, fmt.Sprintf("own-%d-%d", round, i), map[string]string{"a/b": "x", "bin/c": "y"}))
		}
		if err := c.AddMultiple(t.Context(), &storetest.Source{Objects: append(own, below...)}, unsigned); err != nil {
			t.Fatal(err)
		}
		fillStore(t, l.lower, below...)
		big := file(t, "big", 4<<20)
		g, uploading := gated(big, 3<<20), l.client()
		done := make(chan error, 2)
		go func() { done <- uploading.Add(t.Context(), big.Info, g, unsigned) }()
		l.unpacking(1 << 20)
		must(t, c.Close())
		collecting := l.client()
		before := len(listing(t, filepath.Join(filepath.Dir(l.root), "upper")))
		go func() { _, err := collecting.CollectGarbage(t.Context(), all()); done <- err }()
		eventually(t, "something is deleted", func() bool {
			select {
			case err := <-done: // it was quicker
				done <- err
				return true
			default:
				return len(listing(t, filepath.Join(filepath.Dir(l.root), "upper"))) < before-10*round
			}
		})
		l.proc.Kill()
		close(g.open)
		<-done
		<-done
		l.start()
		for _, o := range below[:50] {
			if !l.inMerged(o) {
				t.Errorf("%s of the lower does not show", o.Path().Name())
			}
		}
		if damaged, err := l.client().Verify(t.Context(), store.VerifyOptions{CheckContents: true}); damaged || err != nil {
			t.Errorf("round %d: damaged %v, %v", round, damaged, err)
		}
	}
	l.proc.Kill() // and with it the temporary roots
	l.start()
	if _, err := l.client().CollectGarbage(t.Context(), all()); err != nil {
		t.Error(err)
	}
	if names := l.upperEntries(); len(names) > 0 {
		t.Errorf("after a collection the upper layer has %q", names)
	}
	for _, name := range listing(t, filepath.Join(filepath.Dir(l.root), "state")) {
		if strings.HasPrefix(name, "strata-") {
			t.Errorf("%s is left", name)
		}
	}
	c := l.client()
	l.valid(c, true, below...)
	for _, o := range below {
		must(t, nar(t, c, o))
	}
}
