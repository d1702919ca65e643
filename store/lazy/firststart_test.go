package lazy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/fileindex"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/store/binarycache"
	"github.com/strata-nix/strata/store/lazy"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// roundTrip is what each request takes of the time of a bubble: so the time that passes is the number of those that
// came one after the other.
const roundTrip = time.Second

// far makes a cache be far away.
func far(c *counting) *counting {
	c.Before = func(ctx context.Context, _, _ string) error {
		select {
		case <-time.After(roundTrip):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return c
}

// trips counts round trips.
type trips struct{ since time.Time }

func (r *trips) taken() float64 {
	n := time.Since(r.since).Seconds() / roundTrip.Seconds()
	r.since = time.Now()
	return n
}

// lookingAhead has things looked up ahead until the test ends.
func (s *setup) lookingAhead() {
	ctx, stop := context.WithCancel(s.t.Context())
	var ahead sync.WaitGroup
	ahead.Go(func() { s.objects.LookAhead(ctx) })
	s.t.(*testing.T).Cleanup(func() {
		stop()
		ahead.Wait()
	})
}

var plainNars = binarycache.Options{Compression: compress.None}

// An interpreter reads most of its library in no order that anybody could know: few of its reads wait. A program that
// reads a few files gets little more.
func TestALibraryComesByAFewRoundTrips(t *testing.T) {
	files := map[string]string{}
	var names []string
	for i := range 400 {
		name := fmt.Sprintf("lib/%c%d/m%03d.py", 'a'+i%3, i/100, i)
		files[name] = noise(i, 4_000+i*37%16_000)
		names = append(names, name)
	}
	r := rand.New(rand.NewPCG(1, 2))
	r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	o := storetest.Tree(t, dir, "library", files)
	from := indexed(t, "a", plainNars, o)
	total := int64(o.Info.NarSize)
	for reads, most := range map[int]struct {
		trips float64
		bytes int64
	}{1: {4, 300_000}, 4: {8, 1_500_000}, 250: {30, total + total/10}} {
		t.Run(fmt.Sprint(reads), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSetup(t, lazy.Options{Origins: []lazy.Origin{far(from).origin(true)}, NoProfiles: true}, lazy.CacheOptions{})
				from.taken()
				at := trips{time.Now()}
				for _, name := range names[:reads] {
					s.wants(o.Path(), name, files[name])
				}
				n := at.taken()
				s.settled()
				if bytes, parts := from.taken(); n > most.trips || bytes > most.bytes {
					t.Errorf("%d files took %.0f round trips and %d bytes by %d requests", reads, n, bytes, parts)
				}
			})
		})
	}
}

// Whoever reads the first file of all waits for what it is and for what is in it, and for nothing else one after the other.
func TestTheFirstFileTakesTwoRoundTrips(t *testing.T) {
	o := storetest.Tree(t, dir, "o", map[string]string{"file": "text"})
	for _, caches := range []int{1, 3} {
		t.Run(fmt.Sprint(caches), func(t *testing.T) {
			var origins []lazy.Origin
			for i := range caches { // the others have other objects
				other := storetest.Tree(t, dir, fmt.Sprintf("o%d", i), map[string]string{"file": "another text"})
				if i == 0 {
					other = o
				}
				origins = append(origins, far(indexed(t, fmt.Sprint(i), plainNars, other)).origin(true))
			}
			synctest.Test(t, func(t *testing.T) {
				s := newSetup(t, lazy.Options{Origins: origins, NoProfiles: true}, lazy.CacheOptions{})
				s.lookingAhead()
				time.Sleep(2 * roundTrip) // until somebody starts something
				at := trips{time.Now()}
				s.wants(o.Path(), "file", "text")
				if n := at.taken(); n > 2 {
					t.Errorf("it took %.0f round trips", n)
				}
			})
		})
	}
}

// A program names what it needs: by the time that it asks, it is here or on its way.
func TestAProgramBringsWhatItNeeds(t *testing.T) {
	const size = 3 << 20
	store := string(dir) + "/"
	deep := storetest.Tree(t, dir, "deep", map[string]string{"lib/libdeep.so.1": string(lazy.Program("", "", nil, 700_000))})
	var libs []storetest.Object
	var needed, dirs []string
	for i := range 5 {
		name := fmt.Sprintf("lib%d.so", i)
		o := storetest.Tree(t, dir, fmt.Sprintf("lib%d", i), map[string]string{
			"lib/" + name: string(lazy.Program("", store+deep.Path().Base()+"/lib", []string{"libdeep.so.1"}, 600_000+i)),
		}, deep.Path())
		libs, needed, dirs = append(libs, o), append(needed, name), append(dirs, store+o.Path().Base()+"/lib")
	}
	loader := storetest.Tree(t, dir, "loader", map[string]string{"lib/ld.so": string(lazy.Program("", "", nil, 200_000))})
	refs := append(pathsOf(libs...), loader.Path())
	app := storetest.Tree(t, dir, "app", map[string]string{
		"bin/app":    string(lazy.Program(store+loader.Path().Base()+"/lib/ld.so", strings.Join(dirs, ":"), needed, size)),
		"bin/script": "#! " + store + loader.Path().Base() + "/lib/ld.so -x\n",
	}, refs...)
	for name, form := range map[string]binarycache.Options{"in parts": plainNars, "whole": {Compression: compress.None, WriteListing: true}} {
		t.Run(name, func(t *testing.T) {
			c := indexed(t, name, form, append(append([]storetest.Object{deep}, libs...), loader, app)...)
			if name == "whole" {
				c.Store = noIndexes{c.Store}
			}
			synctest.Test(t, func(t *testing.T) {
				s := newSetup(t, lazy.Options{Origins: []lazy.Origin{far(c).origin(true)}, NoProfiles: true}, lazy.CacheOptions{})
				s.lookingAhead()
				at := trips{time.Now()}
				part := func(p storepath.Path, file string, off int64) {
					t.Helper()
					o, node, err := s.find(t.Context(), p, file)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := o.ReadAt(t.Context(), node, make([]byte, 4096), off); err != nil {
						t.Fatal(err)
					}
				}
				part(app.Path(), "bin/app", 0)
				if n := at.taken(); n > 6 {
					t.Errorf("its beginning took %.0f round trips", n)
				}
				time.Sleep(20 * roundTrip) // a long while
				c.taken()
				at = trips{time.Now()}
				part(loader.Path(), "lib/ld.so", 0)
				part(loader.Path(), "lib/ld.so", 190_000)
				part(app.Path(), "bin/app", size-4096)
				for i, l := range libs {
					part(l.Path(), "lib/"+needed[i], 0)
					part(l.Path(), "lib/"+needed[i], 590_000)
				}
				part(deep.Path(), "lib/libdeep.so.1", 0)
				part(deep.Path(), "lib/libdeep.so.1", 690_000)
				if n := at.taken(); n >= 1 {
					_, parts := c.taken()
					t.Errorf("what it needs took %.0f round trips more, and %d requests", n, parts)
				}
				if n := s.store.Counts(); n.EIO+n.Failed != 0 || n.Ahead == 0 && name == "in parts" {
					t.Errorf("%+v", n)
				}
			})
		})
	}
}

// What comes ahead and fails is asked for again by who wants it, and nothing more comes ahead for a while.
func TestWhatFailsAheadFailsNobody(t *testing.T) {
	files := map[string]string{}
	for i := range 100 {
		files[fmt.Sprintf("lib/%03d", i)] = noise(i, 30_000)
	}
	o := storetest.Tree(t, dir, "o", files)
	from := indexed(t, "a", plainNars, o)
	wanted := 0
	turn := make(chan struct{}, 1)
	var failing bool
	from.Before = func(ctx context.Context, op, name string) error {
		turn <- struct{}{}
		defer func() { <-turn }()
		if !failing || !strings.HasPrefix(name, "nar/") {
			return nil
		}
		if wanted++; wanted%2 == 0 { // the second is what comes besides
			return errors.New("no")
		}
		return nil
	}
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.origin(true)}, NoProfiles: true}, lazy.CacheOptions{})
	s.wants(o.Path(), "lib/050", files["lib/050"])
	s.settled()
	failing = true
	s.wants(o.Path(), "lib/010", files["lib/010"])
	s.settled()
	turn <- struct{}{}
	failing = false
	<-turn
	for name, content := range files {
		s.wants(o.Path(), name, content)
	}
	if n := s.store.Counts(); n.EIO != 0 {
		t.Errorf("%+v", n)
	}
}

// Profiles are fetched by few round trips, however many objects they are about.
func TestAProfileTakesFewRoundTrips(t *testing.T) {
	var objects []storetest.Object
	var wants []lazy.Want
	for i := range 12 {
		o := storetest.Tree(t, dir, fmt.Sprintf("o%d", i), map[string]string{"a": noise(i, 50_000), "z": noise(99+i, 50_000), "m": noise(7, 1_000_000)})
		objects = append(objects, o)
		wants = append(wants, lazy.Want{Path: o.Path(), File: "a"}, lazy.Want{Path: o.Path(), File: "z"})
	}
	from := indexed(t, "a", plainNars, objects...)
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t, lazy.Options{Origins: []lazy.Origin{far(from).origin(true)}, NoProfiles: true}, lazy.CacheOptions{Dir: filepath.Join(t.TempDir(), "c")})
		at := trips{time.Now()}
		if err := s.objects.FetchAhead(t.Context(), wants); err != nil {
			t.Fatal(err)
		}
		if n := at.taken(); n > 8 {
			t.Errorf("%.0f round trips for 24 files of 12 objects", n)
		}
		if bytes, parts := from.taken(); parts != 24 || bytes > 24*200_000 {
			t.Errorf("%d bytes by %d requests", bytes, parts)
		}
	})
}

// noIndexes is a cache without indexes.
type noIndexes struct{ objstore.Store }

func (n noIndexes) Get(ctx context.Context, name string, o objstore.GetOptions) (io.ReadCloser, objstore.Info, error) {
	if strings.HasSuffix(name, fileindex.Suffix) {
		return nil, objstore.Info{}, fmt.Errorf("'%s': %w", name, objstore.ErrNotExist)
	}
	return n.Store.Get(ctx, name, o)
}

// An object that was to come ahead as a whole and did not is asked for again as soon as somebody wants it.
func TestAnObjectThatFailedAheadIsTriedAgain(t *testing.T) {
	lib := storetest.Tree(t, dir, "lib", map[string]string{"lib/lib.so": string(lazy.Program("", "", nil, 10_000))})
	app := storetest.Tree(t, dir, "app", map[string]string{"bin/app": string(lazy.Program("", string(dir)+"/"+lib.Path().Base()+"/lib", []string{"lib.so"}, 10_000))}, lib.Path())
	from := newOriginWith(t, "a", compress.None, lib, app)
	synctest.Test(t, func(t *testing.T) {
		var opened atomic.Int32
		from.Before = func(_ context.Context, _, name string) error {
			time.Sleep(roundTrip)
			if strings.HasPrefix(name, "nar/") && opened.Add(1) == 2 {
				return errors.New("no")
			}
			return nil
		}
		s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.trusted()}, NoProfiles: true}, lazy.CacheOptions{})
		s.lookingAhead()
		if _, err := s.read(t.Context(), app.Path(), "bin/app"); err != nil {
			t.Fatal(err)
		}
		for s.store.Counts().Failed == 0 {
			if opened.Load() > 2 {
				t.Fatal("nothing was to come ahead")
			}
			time.Sleep(roundTrip)
		}
		if _, err := s.read(t.Context(), lib.Path(), "lib/lib.so"); err != nil {
			t.Error(err)
		}
		s.settled()
	})
}

// Who stops serving does not wait for what nobody has asked for.
func TestNothingAheadHoldsUpTheEnd(t *testing.T) {
	files := map[string]string{}
	for i := range 100 {
		files[fmt.Sprintf("lib/%03d", i)] = noise(i, 30_000)
	}
	o := storetest.Tree(t, dir, "o", files)
	from := indexed(t, "a", plainNars, o)
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		hung := 0
		from.Before = func(ctx context.Context, _, name string) error {
			mu.Lock()
			hangs := strings.HasPrefix(name, "nar/") && hung > 0
			if hangs {
				hung++
			}
			mu.Unlock()
			if hangs {
				<-ctx.Done()
				return context.Cause(ctx)
			}
			return nil
		}
		s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.origin(true)}, NoProfiles: true}, lazy.CacheOptions{})
		for _, name := range []string{"lib/010", "lib/040", "lib/070"} {
			s.wants(o.Path(), name, files[name])
			synctest.Wait()
		}
		mu.Lock()
		hung = 1
		mu.Unlock()
		for _, name := range []string{"lib/071", "lib/072", "lib/073"} { // have come with the others, and lead to more
			s.wants(o.Path(), name, files[name])
		}
		synctest.Wait()
		at := trips{time.Now()}
		s.settled()
		if n := at.taken(); n >= 1 || hung < 2 {
			t.Errorf("the end took %.0f round trips, with %d requests under way", n, hung-1)
		}
	})
}
