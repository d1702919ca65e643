package substitute_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/substitute"
)

const dir = storepath.DefaultDir

// cache is a source in memory that counts what it is asked, and has faults.
type cache struct {
	dir       storepath.Dir
	priority  int
	massQuery bool
	// open, if not nil, opens NARs instead.
	open func(ctx context.Context, o storetest.Object) (io.ReadCloser, error)
	// refuse, if not nil, is the error of each query.
	refuse error
	// partial are paths of which there is no answer.
	partial      map[storepath.Path]error
	realisations map[store.DrvOutput]*store.Realisation

	mu      sync.Mutex
	objects map[storepath.Path]storetest.Object
	queries [][]storepath.Path
	opened  map[storepath.Path]int
}

func newCache(objects ...storetest.Object) *cache {
	c := &cache{dir: dir, objects: map[storepath.Path]storetest.Object{}, opened: map[storepath.Path]int{}}
	for _, o := range objects {
		c.objects[o.Path()] = o
	}
	return c
}

func (c *cache) Dir() storepath.Dir { return c.dir }
func (c *cache) URI() string        { return "cache://" }
func (c *cache) Close() error       { return nil }

func (c *cache) Advertise(context.Context) (int, bool, error) { return c.priority, c.massQuery, nil }

func (c *cache) ValidPaths(_ context.Context, paths []storepath.Path) (valid []storepath.Path, _ error) {
	if c.refuse != nil {
		return nil, c.refuse
	}
	for _, p := range paths {
		if _, ok := c.objects[p]; ok {
			valid = append(valid, p)
		}
	}
	return valid, nil
}

func (c *cache) PathInfos(_ context.Context, paths []storepath.Path) ([]*store.PathInfo, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queries = append(c.queries, slices.Clone(paths))
	if c.refuse != nil {
		return nil, c.refuse
	}
	infos := make([]*store.PathInfo, len(paths))
	for i, p := range paths {
		if o, ok := c.objects[p]; ok && c.partial[p] == nil {
			infos[i] = o.Info
		}
	}
	if c.partial != nil {
		return infos, &store.PartialError{Errs: c.partial}
	}
	return infos, nil
}

func (c *cache) DownloadSizes(_ context.Context, paths []storepath.Path) ([]uint64, error) {
	sizes := make([]uint64, len(paths))
	for i := range sizes {
		sizes[i] = 10
	}
	return sizes, nil
}

func (c *cache) OpenNar(ctx context.Context, p storepath.Path) (io.ReadCloser, error) {
	c.mu.Lock()
	c.opened[p]++
	o, ok := c.objects[p]
	c.mu.Unlock()
	if !ok {
		return nil, &store.InvalidPathError{Path: c.dir.Print(p)}
	}
	if c.open != nil {
		return c.open(ctx, o)
	}
	return io.NopCloser(o.Reader()), nil
}

func (c *cache) Realisations(_ context.Context, ids []store.DrvOutput) ([]*store.Realisation, error) {
	out := make([]*store.Realisation, len(ids))
	for i, id := range ids {
		out[i] = c.realisations[id]
	}
	return out, c.refuse
}

// opens tells how often NARs have been opened in all.
func (c *cache) opens() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, times := range c.opened {
		n += times
	}
	return n
}

// halfThenFault gives half of each NAR.
func halfThenFault(_ context.Context, o storetest.Object) (io.ReadCloser, error) {
	return o.Broken().Open(context.Background())
}

// world is a store with sources.
type world struct {
	t     *testing.T
	dest  *local.Store
	names []string
	pool  *substitute.Pool
}

// newWorld has sources by the names of URIs "cache://0?…", "cache://1?…".
func newWorld(t *testing.T, o local.Options, caches ...*cache) *world {
	t.Helper()
	return newWorldOf(t, o, make([]string, len(caches)), caches...)
}

func newWorldOf(t *testing.T, o local.Options, params []string, caches ...*cache) *world {
	t.Helper()
	w := &world{t: t}
	byURI := map[string]*cache{}
	for i, c := range caches {
		uri := fmt.Sprintf("cache://%d%s", i, params[i])
		w.names, byURI[uri] = append(w.names, uri), c
	}
	w.pool = substitute.NewPool(func(_ context.Context, uri string) (store.Store, error) {
		if c := byURI[uri]; c != nil {
			return c, nil
		}
		return nil, errors.New("no such cache")
	})
	o.Root, o.Pool, o.Substituters = testenv.Scratch(t), w.pool, w.names
	var err error
	if w.dest, err = local.Open(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(w.dest.Close(), w.pool.Close()); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) engine() *substitute.Engine { return w.dest.Substitution() }

// substitute wants paths and gives their results.
func (w *world) substitute(ctx context.Context, paths ...storepath.Path) []substitute.Result {
	w.t.Helper()
	results, err := w.engine().Substitute(ctx, substitute.Opaque(paths...), substitute.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	return results
}

func (w *world) valid(paths ...storepath.Path) int {
	w.t.Helper()
	v, err := w.dest.ValidPaths(w.t.Context(), paths)
	if err != nil {
		w.t.Fatal(err)
	}
	return len(v)
}

// has compares what the destination has with what it should.
func (w *world) has(objects ...storetest.Object) {
	w.t.Helper()
	for _, o := range objects {
		var b bytes.Buffer
		if err := w.dest.NarFromPath(w.t.Context(), o.Path(), &b); err != nil || !bytes.Equal(b.Bytes(), o.NAR) {
			w.t.Errorf("%s: %d bytes, %v", o.Path(), b.Len(), err)
		}
	}
}

// pathsOf are the paths of objects.
func pathsOf(objects []storetest.Object) (paths []storepath.Path) {
	for _, o := range objects {
		paths = append(paths, o.Path())
	}
	return paths
}

// record is a sink that remembers.
type record struct {
	mu     sync.Mutex
	lines  []string
	starts []activity.Event
	open   map[uint64]bool
	last   map[uint64][]activity.Field // progress
}

func newRecord() *record {
	return &record{open: map[uint64]bool{}, last: map[uint64][]activity.Field{}}
}

func (r *record) Log(_ activity.Level, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, text)
}

func (r *record) Start(e activity.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.starts = append(r.starts, e)
	r.open[e.ID] = true
}

func (r *record) Stop(id uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, id)
}

func (r *record) Result(id uint64, what activity.ResultType, fields []activity.Field) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if what == activity.Progress {
		r.last[id] = fields
	}
}

// said counts the lines that have a text in them.
func (r *record) said(text string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.lines {
		if strings.Contains(l, text) {
			n++
		}
	}
	return n
}

// started gives the activities of a type.
func (r *record) started(kind activity.Type) (events []activity.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.starts {
		if e.Type == kind {
			events = append(events, e)
		}
	}
	return events
}
