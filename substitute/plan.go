package substitute

import (
	"context"
	"fmt"
	"slices"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Plan is what it would take to make paths valid.
type Plan struct {
	// Infos are what would be substituted, references first, with what the sources
	// say of it. A path is among them although some of what it refers to is Unknown.
	Infos []*store.PathInfo
	// Unknown are paths that are neither valid nor to be had, sorted.
	Unknown []storepath.Path
	// DownloadSize is how many bytes have to travel, NarSize how many that is as
	// NARs, as far as sources tell.
	DownloadSize, NarSize uint64
}

// Plan finds out what it takes to make paths valid with their closures. It
// changes nothing. Without Settings.Fallback it is an error when the last source that
// could have had a path cannot be asked.
func (e *Engine) Plan(ctx context.Context, wanted []Wanted) (*Plan, error) {
	ctx = store.WithAnswerAge(ctx, e.settings.AnswerAge)
	r, err := e.newRequest(ctx)
	if err != nil {
		return nil, err
	}
	r.silent = true // until somebody wants to have it
	c, err := r.closure(ctx, wanted, nil)
	if err != nil {
		return nil, err
	}
	if err := c.fault(); err != nil && !e.settings.Fallback {
		return nil, err
	}
	p := &Plan{Unknown: c.unknown()}
	for _, f := range c.order {
		p.Infos = append(p.Infos, f.info)
		p.DownloadSize += f.size
		p.NarSize += f.info.NarSize
	}
	return p, nil
}

// closure is what a set of paths needs that is not valid.
type closure struct {
	order   []*found // references first, as far as that can be
	found   map[storepath.Path]*found
	missing map[storepath.Path]error // what is not to be had; why that could not be told, or nil
}

// fault is an error of a source that had the last word on a path.
func (c *closure) fault() error {
	for _, p := range c.unknown() {
		if err := c.missing[p]; err != nil {
			return err
		}
	}
	return nil
}

func (c *closure) unknown() []storepath.Path {
	var all []storepath.Path
	for p := range c.missing {
		all = append(all, p)
	}
	return storepath.SortUnique(all)
}

// maxClosure bounds what a source can make of a closure.
const maxClosure = 1 << 21

// search is how a closure is looked for.
type search struct {
	// again are paths that are wanted although they are valid.
	again storepath.Set
	// may tells whether a source may be asked for a path; nil: every one.
	may func(storepath.Path, *asked) bool
}

// closure looks for what is wanted and all that it refers to, level by level.
func (r *request) closure(ctx context.Context, wanted []Wanted, o *search) (*closure, error) {
	if o == nil {
		o = &search{}
	}
	c := &closure{found: map[storepath.Path]*found{}, missing: map[storepath.Path]error{}}
	seen := storepath.Set{}
	for level := fresh(seen, nil, wanted...); len(level) > 0; {
		if len(seen) > maxClosure {
			return nil, fmt.Errorf("what substituters say of '%s' has no end: it refers to more than %d paths", r.dest.Dir().Print(wanted[0].Path), maxClosure)
		}
		needed, err := r.notValid(ctx, level, o.again)
		if err != nil {
			return nil, err
		}
		answers, err := r.find(ctx, needed, o.may)
		if err != nil {
			return nil, err
		}
		level = nil
		for i, w := range needed {
			f := answers[i].found
			if f == nil {
				c.missing[w.Path] = answers[i].err
				continue
			}
			c.found[w.Path] = f
			c.order = append(c.order, f)
			level = fresh(seen, level, Opaque(f.info.References...)...)
		}
	}
	c.sort(r.dest.Dir())
	return c, nil
}

// fresh appends those of wanted that are new to seen.
func fresh(seen storepath.Set, list []Wanted, wanted ...Wanted) []Wanted {
	for _, w := range wanted {
		if seen.Add(w.Path) {
			list = append(list, w)
		}
	}
	return list
}

// notValid gives those that the destination does not have, and those of again.
func (r *request) notValid(ctx context.Context, level []Wanted, again storepath.Set) ([]Wanted, error) {
	have, err := r.valid(ctx, pathsOf(level))
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(level, func(w Wanted) bool { return have.Has(w.Path) && !again.Has(w.Path) }), nil
}

// sort puts references first. A circle among them stays as it is: whoever imports
// it says so.
func (c *closure) sort(dir storepath.Dir) {
	infos := make([]*store.PathInfo, len(c.order))
	for i, f := range c.order {
		infos[i] = f.info
	}
	sorted, err := store.SortByReferences(dir, infos)
	if err != nil {
		return
	}
	for i, info := range sorted {
		c.order[i] = c.found[info.Path]
	}
}
