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
	aheadBeside = 2
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
		limit := aheadJobs
		if g.demand > 0 {
			limit = aheadBeside
		}
		if g.active < limit {
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
	var mu sync.Mutex
	var errs []error
	var all sync.WaitGroup
	for _, w := range groups {
		if err := o.gate.enter(ctx); err != nil {
			break
		}
		all.Go(func() {
			defer o.gate.leave()
			if err := o.fetchGroup(ctx, w, parts); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(errs...)
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

// fetchGroup fetches one of them.
func (o *Objects) fetchGroup(ctx context.Context, w *wantedFiles, parts func(context.Context, *store.PathInfo) *partial) error {
	if pt := parts(ctx, w.info); pt != nil {
		n, err := pt.fetchAhead(ctx, w.files)
		o.s.count.ahead.Add(int64(n))
		if !errors.Is(err, errWhole) {
			return err
		}
	}
	if o.s.o.Cache.Has(w.info.Path) {
		return nil
	}
	err := o.fetch.fetch(ctx, w.info)
	if err == nil {
		o.s.count.ahead.Add(1)
	}
	return err
}

// fetchAhead makes files be here, and tells how many came. A file that is not there, or is none, is passed
// over; "" is the object itself.
func (pt *partial) fetchAhead(ctx context.Context, files []string) (came int, err error) {
	c, t := pt.x.Contents, pt.x.Contents.Tree()
	var chunks []int
	for _, file := range files {
		node, ok := findFile(t, file)
		if !ok {
			continue
		}
		if node == 0 && t.Kind(0) == fusefs.Directory {
			for i := range c.Len() {
				chunks = append(chunks, i)
			}
			continue
		}
		first, end := c.Chunks(node)
		for i := first; i < end; i++ {
			chunks = append(chunks, i)
		}
	}
	for _, i := range chunks {
		if !pt.has(i) {
			if _, ok := pt.o.s.o.Cache.readChunk(c, c.Chunk(i)); ok {
				pt.mark(i)
			}
		}
	}
	slices.SortFunc(chunks, func(a, b int) int { return cmp.Compare(c.Chunk(a).Nar, c.Chunk(b).Nar) })
	chunks = slices.Compact(slices.DeleteFunc(chunks, pt.has))
	for len(chunks) > 0 {
		n := pt.runOf(chunks)
		if err := pt.fetchRun(ctx, chunks[:n]); err != nil {
			return came, err
		}
		came += n
		chunks = chunks[n:]
	}
	return came, nil
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
			work, cancel := context.WithCancel(context.WithoutCancel(ctx))
			j.cancel = cancel
			pt.o.fetch.idle.Go(func() { pt.run(work, j) })
		}
	}
	pt.mu.Unlock()
	for _, i := range chunks {
		if err := pt.fetch(ctx, i); err != nil {
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
