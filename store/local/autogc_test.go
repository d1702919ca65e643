package local_test

import (
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// tightStore is a store on a disk that its objects fill: each that is there takes
// 100 bytes of 1000.
func tightStore(t *testing.T, minFree, maxFree uint64) (*local.Store, *atomic.Int64) {
	t.Helper()
	always := time.Duration(0)
	s := open(t, local.Options{Root: testenv.Scratch(t), AutoGC: local.AutoGC{MinFree: minFree, MaxFree: &maxFree, CheckInterval: &always}})
	looks := new(atomic.Int64)
	s.SetFreeSpace(func() uint64 {
		looks.Add(1)
		n := uint64(0)
		for _, err := range s.AllPaths(t.Context()) {
			if err != nil {
				t.Error(err)
			}
			n++
		}
		return 1000 - 100*n
	})
	return s, looks
}

func garbage(t *testing.T, s *local.Store, n int) (objects []storetest.Object) {
	t.Helper()
	for i := range n {
		objects = append(objects, storetest.File(t, s.Dir(), "garbage-"+strconv.Itoa(i), "x"))
	}
	return objects
}

func count(t *testing.T, s *local.Store) (n int) {
	t.Helper()
	for _, err := range s.AllPaths(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

func TestGarbageIsCollectedWhenTheDiskIsFull(t *testing.T) {
	s, _ := tightStore(t, 350, 1<<40)
	g := garbage(t, s, 8)
	roots := s.NewTempRoots()
	defer roots.Close()
	if err := roots.Add(t.Context(), []storepath.Path{g[2].Path()}); err != nil {
		t.Fatal(err)
	}
	add(t, s, g[:7]...)
	if n := count(t, s); n != 7 { // 300 are free now
		t.Fatalf("%d objects", n)
	}
	add(t, s, g[7])
	valid, err := s.ValidPaths(t.Context(), []storepath.Path{g[2].Path(), g[7].Path()})
	if n := count(t, s); err != nil || n != 2 || len(valid) != 2 {
		t.Errorf("%d objects are left, of those that should be %v, %v", n, valid, err)
	}
}

func TestAutomaticCollectionStopsAtMaxFree(t *testing.T) {
	// What is freed is counted as the disk has it, where the smallest object takes
	// more than what is asked for.
	s, _ := tightStore(t, 350, 351)
	g := garbage(t, s, 8)
	add(t, s, g...)
	if n := count(t, s); n != 7 {
		t.Errorf("%d objects are left", n)
	}
}

func TestNobodyLooksWithoutASetting(t *testing.T) {
	s, looks := tightStore(t, 0, 1<<40)
	add(t, s, garbage(t, s, 10)...)
	if n := count(t, s); n != 10 || looks.Load() != 0 {
		t.Errorf("%d objects are left, looked %d times", n, looks.Load())
	}
	v, err := s.Override(map[string]string{"min-free": "350", "max-free": "100000"})
	if err != nil {
		t.Fatal(err)
	}
	o := storetest.File(t, s.Dir(), "of-a-client", "x")
	a, _ := store.As[store.Adder](v)
	if err := a.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{NoCheckSigs: true}); err != nil {
		t.Fatal(err)
	}
	if n := count(t, s); n != 1 || looks.Load() == 0 {
		t.Errorf("with the settings of a client: %d objects are left, looked %d times", n, looks.Load())
	}
}

// A collection that freed nothing is not tried again at once.
func TestFullDiskWithoutGarbage(t *testing.T) {
	s, looks := tightStore(t, 900, 1<<40)
	roots := s.NewTempRoots()
	defer roots.Close()
	g := garbage(t, s, 6)
	var paths []storepath.Path
	for _, o := range g {
		paths = append(paths, o.Path())
	}
	if err := roots.Add(t.Context(), paths); err != nil {
		t.Fatal(err)
	}
	add(t, s, g[:3]...)
	stop := s.KeepFree(t.Context())
	stop()
	add(t, s, g[3:]...)
	if n := count(t, s); n != 6 || looks.Load() > 20 {
		t.Errorf("%d objects, looked %d times", n, looks.Load())
	}
}

// On a real file system that is really full.
func TestAutomaticCollectionOnASmallDisk(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	dir := testenv.Scratch(t)
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=32m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	always := time.Duration(0)
	s, err := local.Open(t.Context(), local.Options{Root: dir, AutoGC: local.AutoGC{MinFree: 16 << 20, CheckInterval: &always}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range 12 { // of 4 MiB each: three times what there is room for
		add(t, s, storetest.File(t, s.Dir(), "big-"+strconv.Itoa(i), string(make([]byte, 4<<20))))
	}
	if n := count(t, s); n == 0 || n > 6 {
		t.Errorf("%d objects are left", n)
	}
}
