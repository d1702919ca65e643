package lazy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// How many transfers fetch ahead at once, and how many while somebody waits for something, who
// is to get the most of the line.
const (
	aheadJobs   = 6
	aheadBeside = 4
)

// A run of an object's NAR that is fetched ahead at once: files that lie no further apart come together, gaps and
// all, as a request costs more than they do.
const (
	aheadGap = 128 << 10
	aheadRun = 4 << 20
)

// gate lets a few fetch ahead, and fewer while somebody waits.
type gate struct {
	mu      sync.Mutex
	demand  int // reads that wait
	active  int
	changed chan struct{}
}

// enter waits for a place.
func (g *gate) enter(ctx context.Context) error {
	for {
		g.mu.Lock()
		if g.active < g.limit() {
			g.active++
			g.mu.Unlock()
			return nil
		}
		if g.changed == nil {
			g.changed = make(chan struct{})
		}
		c := g.changed
		g.mu.Unlock()
		select {
		case <-c:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// try takes a place if there is one.
func (g *gate) try() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.active >= g.limit() {
		return false
	}
	g.active++
	return true
}

// limit is how many may be in. g.mu is held.
func (g *gate) limit() int {
	if g.demand > 0 {
		return aheadBeside
	}
	return aheadJobs
}

func (g *gate) leave() { g.change(func() { g.active-- }) }

// wait counts a read that waits, until it calls what it is given.
func (g *gate) wait() (done func()) {
	g.change(func() { g.demand++ })
	return func() { g.change(func() { g.demand-- }) }
}

func (g *gate) change(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
	if g.changed != nil {
		close(g.changed)
		g.changed = nil
	}
}

// wanted are the files of an object that are to come together; none: all of it.
type wantedFiles struct {
	info  *store.PathInfo
	files []string
}

// FetchAhead makes files and objects be here before somebody reads them: in their order, several at once, and with less of the line while
// somebody waits for something else. What is not valid is passed over, and so is what cannot be
// had; the error joins why.
func (o *Objects) FetchAhead(ctx context.Context, wants []Want) error {
	return o.fetchAhead(ctx, wants, func(ctx context.Context, info *store.PathInfo) *partial {
		ob, err := o.describe(ctx, info)
		if err != nil {
			return nil
		}
		return ob.parts(ctx)
	})
}

// FetchAhead is that of [Objects], for a process that serves no mount.
func (s *Store) FetchAhead(ctx context.Context, wants []Want) error {
	o := &Objects{s: s, fetch: newFetcher(s)}
	err := o.fetchAhead(ctx, wants, o.partialOf)
	o.fetch.idle.Wait()
	return err
}

func (o *Objects) fetchAhead(ctx context.Context, wants []Want, parts func(context.Context, *store.PathInfo) *partial) error {
	groups, err := o.s.group(ctx, wants)
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	found := make([]chan *partial, len(groups))
	turn := make(chan struct{}, aheadLookups)
	for n, w := range groups {
		found[n] = make(chan *partial, 1)
		all.Go(func() {
			select {
			case turn <- struct{}{}:
				found[n] <- parts(ctx, w.info)
				<-turn
			case <-ctx.Done():
			}
		})
	}
	var failed failures
	for n, w := range groups {
		var pt *partial
		select {
		case pt = <-found[n]:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		o.startGroup(ctx, w, pt, &all, &failed)
	}
	all.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return failed.join()
}

// failures are those of several goroutines.
type failures struct {
	mu   sync.Mutex
	errs []error
}

func (f *failures) add(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.errs = append(f.errs, err)
}

func (f *failures) join() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return errors.Join(f.errs...)
}

// group finds what is valid of wants, in their order; files of an object that follow closely come together.
func (s *Store) group(ctx context.Context, wants []Want) (groups []*wantedFiles, err error) {
	set := storepath.Set{}
	for _, w := range wants {
		set.Add(w.Path)
	}
	paths := set.Sorted()
	infos, err := s.PathInfos(ctx, paths)
	var partial *store.PartialError
	if err != nil && !errors.As(err, &partial) {
		return nil, err
	}
	of := make(map[storepath.Path]*store.PathInfo, len(paths))
	for i, p := range paths {
		if infos[i] != nil && !s.o.Cache.Has(p) {
			of[p] = infos[i]
		}
	}
	// So many files of an object are one group, so that what is wanted first of the next object does not
	// wait for what is wanted last of this one.
	const atOnce = 64
	open := map[storepath.Path]*wantedFiles{}
	for _, w := range wants {
		info := of[w.Path]
		if info == nil {
			continue
		}
		g := open[w.Path]
		if g == nil || len(g.files) >= atOnce {
			g = &wantedFiles{info: info}
			open[w.Path] = g
			groups = append(groups, g)
		}
		g.files = append(g.files, w.File)
	}
	return groups, nil
}

// startGroup begins to fetch one of them: its runs in the order of the NAR, or all of its object. It returns when the last has
// begun.
func (o *Objects) startGroup(ctx context.Context, w *wantedFiles, pt *partial, all *sync.WaitGroup, failed *failures) {
	start := func(fetch func() error) bool {
		if err := o.gate.enter(ctx); err != nil {
			return false
		}
		all.Go(func() {
			defer o.gate.leave()
			if err := fetch(); err != nil {
				failed.add(err)
			}
		})
		return true
	}
	whole := func() error {
		if o.s.o.Cache.Has(w.info.Path) {
			return nil
		}
		err := o.fetch.fetch(ctx, w.info)
		if err == nil {
			o.s.count.ahead.Add(1)
		}
		return err
	}
	if pt == nil {
		start(whole)
		return
	}
	for chunks := pt.wantedOf(w.files); len(chunks) > 0; {
		n := pt.runOf(chunks)
		run := chunks[:n]
		chunks = chunks[n:]
		if !start(func() error {
			err := pt.fetchRun(ctx, run)
			if errors.Is(err, errWhole) {
				return whole()
			}
			if err == nil {
				o.s.count.ahead.Add(int64(len(run)))
			}
			return err
		}) {
			return
		}
	}
}

// fetchGroup fetches one of them, and waits until it is here.
func (o *Objects) fetchGroup(ctx context.Context, w *wantedFiles, pt *partial) error {
	var all sync.WaitGroup
	var failed failures
	o.startGroup(ctx, w, pt, &all, &failed)
	all.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return failed.join()
}

// wantedOf are the chunks of files that are not here, in the order of the NAR. A file that is not there, or is none,
// is passed over; "" is the object itself.
func (pt *partial) wantedOf(files []string) (chunks []int) {
	c, t := pt.x.Contents, pt.x.Contents.Tree()
	for _, file := range files {
		node, ok := findFile(t, file)
		if !ok {
			continue
		}
		first, end := c.Chunks(node)
		if node == 0 && t.Kind(0) == fusefs.Directory {
			first, end = 0, c.Len()
		}
		for i := first; i < end; i++ {
			chunks = append(chunks, i)
		}
	}
	slices.SortFunc(chunks, func(a, b int) int { return cmp.Compare(c.Chunk(a).Nar, c.Chunk(b).Nar) })
	return slices.DeleteFunc(slices.Compact(chunks), pt.look)
}

// runOf is how many of chunks, in the order of the NAR, are near enough to come together.
func (pt *partial) runOf(chunks []int) int {
	c := pt.x.Contents
	begin := c.Chunk(chunks[0])
	end := begin.Nar + begin.Size
	for n, i := range chunks[1:] {
		k := c.Chunk(i)
		if k.Nar-end > aheadGap || k.Nar+k.Size-begin.Nar > aheadRun {
			return n + 1
		}
		end = k.Nar + k.Size
	}
	return len(chunks)
}

// fetchRun makes chunks come with one request, as far as nobody else fetches them already, and waits
// until they are here.
func (pt *partial) fetchRun(ctx context.Context, chunks []int) error {
	c := pt.x.Contents
	first, last := c.Chunk(chunks[0]), c.Chunk(chunks[len(chunks)-1])
	from, to := pt.x.Span(first.Nar, last.Nar+last.Size-first.Nar)
	pt.mu.Lock()
	if !pt.whole && !time.Now().Before(pt.failed.until) {
		if j := pt.jobOf(from, to); len(j.chunks) > 0 {
			pt.begin(ctx, j)
		}
	}
	pt.mu.Unlock()
	for _, i := range chunks {
		if err := pt.fetch(ctx, i, i); err != nil {
			return err
		}
	}
	return nil
}

// findFile finds a file of a tree by its path; "" is the root.
func findFile(t *fusefs.Tree, file string) (node uint32, ok bool) {
	if file == "" {
		return 0, true
	}
	for name := range strings.SplitSeq(file, "/") {
		if node, ok = t.Find(node, name); !ok {
			return 0, false
		}
	}
	return node, true
}

// startAhead fetches what a profile says, once in the life of this process for each root.
func (o *Objects) startAhead(ctx context.Context, root storepath.Path) {
	p, err := o.s.o.Cache.Profile(root)
	if err != nil || p == nil {
		if err != nil {
			o.s.o.Log.Warn(fmt.Sprintf("the profile of '%s' is not used: %v", root, err))
		}
		return
	}
	if err := o.FetchAhead(ctx, p.Wants); err != nil && ctx.Err() == nil {
		o.s.o.Log.Debug(fmt.Sprintf("fetching ahead for '%s': %v", root, err))
	}
}
