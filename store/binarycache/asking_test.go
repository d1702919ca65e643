package binarycache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/internal/fault"
	"github.com/strata-nix/strata/narinfo/diskcache"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/objstore/objstoretest"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/binarycache"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

func TestCacheInfo(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want error // nil: none
		why  string
	}{
		"nothing said":  {"", nil, ""},
		"right":         {"StoreDir: /nix/store\nPriority: 40\n", nil, ""},
		"another store": {"StoreDir: /gnu/store\n", binarycache.ErrStoreDir, "prefix '/gnu/store', not '/nix/store'"},
		"no store":      {"StoreDir: gnu\n", binarycache.ErrBadFile, "nix-cache-info"},
		"priority":      {"Priority: much\n", binarycache.ErrBadFile, "'much'"},
		"too large":     {strings.Repeat("x", 1<<20), binarycache.ErrBadFile, "more than"},
	} {
		objects := objstore.NewMemory()
		objstoretest.Put(t, objects, "nix-cache-info", c.text)
		s := open(t, objects, nil)
		o := storetest.File(t, s.Dir(), "x", "x")
		_, valid := s.ValidPaths(t.Context(), []storepath.Path{o.Path()})
		add := s.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{})
		_, _, advertise := s.Advertise(t.Context())
		for op, err := range map[string]error{"valid": valid, "add": add, "advertise": advertise} {
			if !errors.Is(err, c.want) || err != nil && (!strings.Contains(err.Error(), c.why) || !strings.Contains(err.Error(), s.URI())) {
				t.Errorf("%s, %s: %v; want %v, %q", name, op, err, c.want, c.why)
			}
		}
	}
}

// What is known of a cache gets old, too.
func TestCacheInfoChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		objects := objstore.NewMemory()
		objstoretest.Put(t, objects, "nix-cache-info", "Priority: 40\n")
		s := open(t, objects, func(o *binarycache.Options) { o.TTL = diskcache.TTL{Meta: time.Hour} })
		for _, want := range []int{40, 40, 10} {
			if p, _, err := s.Advertise(t.Context()); p != want || err != nil {
				t.Errorf("%d, %v; want %d", p, err, want)
			}
			objstoretest.Put(t, objects, "nix-cache-info", "Priority: 10\n")
			time.Sleep(35 * time.Minute)
		}
	})
}

func TestAdvertise(t *testing.T) {
	objects := objstore.NewMemory()
	objstoretest.Put(t, objects, "nix-cache-info", "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n")
	if p, m, err := open(t, objects, nil).Advertise(t.Context()); p != 40 || !m || err != nil {
		t.Errorf("%d, %v, %v", p, m, err)
	}
	s := open(t, objects, func(o *binarycache.Options) { o.Priority, o.WantMassQuery = new(10), new(false) })
	if p, m, err := s.Advertise(t.Context()); p != 10 || m || err != nil {
		t.Errorf("%d, %v, %v", p, m, err)
	}
}

// What is no cache is told apart from an empty one, until somebody writes.
func TestExisting(t *testing.T) {
	objects := objstore.NewMemory()
	s := open(t, objects, func(o *binarycache.Options) { o.Existing = true })
	o := storetest.File(t, s.Dir(), "x", "x")
	if _, err := s.ValidPaths(t.Context(), []storepath.Path{o.Path()}); !errors.Is(err, binarycache.ErrNotCache) {
		t.Errorf("%v", err)
	}
	if err := s.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := objstoretest.Get(t, objects, "nix-cache-info"); got != "StoreDir: /nix/store\n" {
		t.Errorf("%q", got)
	}
	if v, err := s.ValidPaths(t.Context(), []storepath.Path{o.Path()}); err != nil || len(v) != 1 {
		t.Errorf("%v, %v", v, err)
	}
}

// Nothing is asked twice, and nothing that is known.
func TestWhatIsAsked(t *testing.T) {
	memory := objstore.NewMemory()
	made := write(t, open(t, memory, nil))
	objects := &fault.Objects{Store: memory}
	disk := diskcache.Open(diskcache.Options{File: filepath.Join(t.TempDir(), "x.sqlite"), TTL: diskcache.DefaultTTL})
	t.Cleanup(func() { disk.Close() })
	remembering := func(o *binarycache.Options) { o.TTL, o.DiskCache = diskcache.DefaultTTL, disk }
	s := open(t, objects, remembering)
	paths := []storepath.Path{node(t, "nobody"), made[0].Path(), made[1].Path(), made[0].Path()}
	ask := func(s *binarycache.Store) []string {
		t.Helper()
		if v, err := s.ValidPaths(t.Context(), paths); err != nil || len(v) != 3 {
			t.Errorf("%v, %v", v, err)
		}
		if infos, err := s.PathInfos(t.Context(), paths); err != nil || infos[0] != nil || infos[3] == nil {
			t.Errorf("%v, %v", infos, err)
		}
		if sizes, err := s.DownloadSizes(t.Context(), paths); err != nil || sizes[0] != 0 || sizes[1] != made[0].Info.NarSize {
			t.Errorf("%v, %v", sizes, err)
		}
		return objects.Calls()
	}
	if calls := ask(s); len(calls) != 4 {
		t.Errorf("asked: %q", calls)
	}
	if calls := ask(s); len(calls) != 0 {
		t.Errorf("asked again: %q", calls)
	}
	if calls := ask(open(t, objects, remembering)); len(calls) != 0 {
		t.Errorf("asked although it is on disk: %q", calls)
	}
	// Without memory everything is asked each time.
	forgetful := open(t, objects, nil)
	ask(forgetful)
	if calls := ask(forgetful); len(calls) != 9 {
		t.Errorf("without memory: %q", calls)
	}
}

// Requests for narinfos are under way together, and no more than may be.
func TestRequestsTogether(t *testing.T) {
	memory := objstore.NewMemory()
	const connections = 5
	under := make(chan struct{}, connections)
	all := make(chan struct{})
	objects := &fault.Objects{Store: memory}
	s := open(t, objects, func(o *binarycache.Options) { o.Connections = connections })
	objects.Before = func(_ context.Context, _, name string) error {
		if !strings.HasSuffix(name, ".narinfo") {
			return nil
		}
		select {
		case under <- struct{}{}:
		default:
			t.Error("too many requests at once")
		}
		if len(under) == connections {
			select {
			case <-all:
			default:
				close(all) // as many as may be are under way
			}
		}
		<-all
		<-under
		return nil
	}
	var paths []storepath.Path
	for i := range 40 {
		paths = append(paths, storetest.File(t, s.Dir(), "x", fmt.Sprint(i)).Path())
	}
	if v, err := s.ValidPaths(t.Context(), paths); err != nil || len(v) != 0 {
		t.Errorf("%v, %v", v, err)
	}
}

// A canceled request for many ends at once.
func TestCanceledAsking(t *testing.T) {
	objects := &fault.Objects{Store: objstore.NewMemory()}
	s := open(t, objects, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("enough")
	objects.Before = func(ctx context.Context, _, name string) error {
		if strings.HasSuffix(name, ".narinfo") {
			cancel(stop)
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	if _, err := s.ValidPaths(ctx, []storepath.Path{node(t, "a"), made(t, "b"), made(t, "c")}); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
}

func made(t *testing.T, text string) storepath.Path {
	return storetest.File(t, storepath.DefaultDir, "x", text).Path()
}

// What was remembered goes away with time.
func TestForgetting(t *testing.T) {
	memory, o, _ := cacheOf(t, compress.None, nil)
	objects := &fault.Objects{Store: memory}
	s := open(t, objects, func(o *binarycache.Options) { o.TTL = diskcache.TTL{Positive: time.Hour, Negative: time.Nanosecond} })
	paths := []storepath.Path{o.Path(), node(t, "nobody")}
	for range 3 {
		if v, err := s.ValidPaths(t.Context(), paths); err != nil || len(v) != 1 {
			t.Fatal(v, err)
		}
	}
	var there, absent int
	for _, c := range objects.Calls() {
		switch c {
		case "get " + o.Path().HashPart() + ".narinfo":
			there++
		case "get " + node(t, "nobody").HashPart() + ".narinfo":
			absent++
		}
	}
	if there != 1 || absent != 3 {
		t.Errorf("asked %d and %d times", there, absent)
	}
}

// NARs that were read are kept where the user wants them.
func TestLocalNarCache(t *testing.T) {
	memory, o, info := cacheOf(t, compress.XZ, nil)
	objects := &fault.Objects{Store: memory}
	dir := t.TempDir()
	s := open(t, objects, func(o *binarycache.Options) { o.LocalNarCache = dir })
	read := func() (fetched bool) {
		t.Helper()
		if got := narOf(t, s, o.Path()); !bytes.Equal(got, o.NAR) {
			t.Errorf("%d bytes, want %d", len(got), len(o.NAR))
		}
		for _, c := range objects.Calls() {
			fetched = fetched || c == "get "+info.URL
		}
		return fetched
	}
	if !read() || read() {
		t.Error("not fetched once")
	}
	file := filepath.Join(dir, o.Info.NarHash.Digest(nixhash.Nix32)+".nar")
	kept, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(kept, o.NAR) {
		t.Fatalf("%d bytes, %v", len(kept), err)
	}
	// A copy that was cut is passed over, one that was changed is thrown away.
	if err := os.WriteFile(file, kept[:100], 0o644); err != nil {
		t.Fatal(err)
	}
	if !read() {
		t.Error("half a copy was taken")
	}
	kept[len(kept)/2]++
	if err := os.WriteFile(file, kept, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.NarFromPath(t.Context(), o.Path(), io.Discard); !errors.Is(err, binarycache.ErrBadFile) || !strings.Contains(err.Error(), dir) {
		t.Errorf("a changed copy: %v", err)
	}
	if !read() || read() {
		t.Error("not fetched once after that")
	}
	// A copy that nobody reads to its end is none.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	r, err := s.OpenNar(t.Context(), o.Path())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, r, 1000); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestBadOptions(t *testing.T) {
	for name, o := range map[string]binarycache.Options{
		"no URI":          {},
		"compression":     {URI: "x", Compression: "lz4"},
		"log-compression": {URI: "x", LogCompression: "zip"},
		"local-nar-cache": {URI: "x", LocalNarCache: "here"},
	} {
		if s, err := binarycache.Open(objstore.NewMemory(), o); err == nil {
			t.Errorf("%s: %+v", name, s)
		}
	}
}
