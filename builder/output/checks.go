package output

import (
	"context"
	"strings"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// checks asks whether the outputs are what the derivation allows.
func (r *registration) checks(ctx context.Context) error {
	c := checker{r: r}
	for _, name := range r.names {
		m := r.made[name]
		if m == nil {
			continue
		}
		if m.spec.Kind == derivation.Fixed {
			if err := c.fixed(m); err != nil {
				return err
			}
		}
		if limits := r.job.Attrs.Checks(name); limits != nil {
			if err := c.check(ctx, m, limits); err != nil {
				return err
			}
		}
	}
	return nil
}

// checker knows the infos of what may lie in the closures of outputs, which need
// not be valid themselves.
type checker struct {
	r     *registration
	infos map[storepath.Path]*store.PathInfo // nil before they are needed
}

func (c *checker) fixed(m *made) error {
	if want, got := m.spec.CA.Hash, m.info.CA.Hash; want != got {
		f := rejectf("hash mismatch in fixed-output derivation '%s':\n  specified: %s\n     got:    %s",
			c.r.drv(), want.Text(nixhash.SRI), got.Text(nixhash.SRI))
		f.Status = store.HashMismatch
		return f
	}
	if refs := m.info.References; len(refs) > 0 {
		f := rejectf("fixed-output derivations must not reference store paths: '%s' references %d distinct paths, e.g. '%s'",
			c.r.drv(), len(refs), c.r.dir.Print(refs[0]))
		f.Status = store.HashMismatch
		return f
	}
	return nil
}

// check applies the limits that are put on one output.
func (c *checker) check(ctx context.Context, m *made, limits *derivation.OutputChecks) error {
	if limits.MaxSize != nil && m.info.NarSize > *limits.MaxSize {
		return rejectf("path '%s' is too large at %d bytes; limit is %d bytes", c.print(m), m.info.NarSize, *limits.MaxSize)
	}
	var closure []*store.PathInfo
	if limits.MaxClosureSize != nil || limits.AllowedRequisites != nil || len(limits.DisallowedRequisites) > 0 {
		var err error
		if closure, err = c.closure(ctx, m.info); err != nil {
			return err
		}
	}
	if limits.MaxClosureSize != nil {
		var size uint64
		for _, info := range closure {
			size += info.NarSize
		}
		if size > *limits.MaxClosureSize {
			return rejectf("closure of path '%s' is too large at %d bytes; limit is %d bytes", c.print(m), size, *limits.MaxClosureSize)
		}
	}
	requisites := make([]storepath.Path, 0, len(closure))
	for _, info := range closure {
		if info != m.info || !limits.IgnoreSelf {
			requisites = append(requisites, info.Path)
		}
	}
	for _, rule := range []struct {
		used    []storepath.Path
		refs    []derivation.CheckRef
		allowed bool
	}{
		{m.info.References, limits.AllowedReferences, true},
		{requisites, limits.AllowedRequisites, true},
		{m.info.References, limits.DisallowedReferences, false},
		{requisites, limits.DisallowedRequisites, false},
	} {
		if rule.allowed && rule.refs != nil || len(rule.refs) > 0 {
			if err := c.refs(m, rule.used, rule.refs, rule.allowed); err != nil {
				return err
			}
		}
	}
	return nil
}

// refs compares what an output uses with what it may use, or may not.
func (c *checker) refs(m *made, used []storepath.Path, refs []derivation.CheckRef, allowed bool) error {
	listed := storepath.Set{}
	for _, ref := range refs {
		p := ref.Path
		if p.IsZero() {
			if _, ok := c.r.job.Outputs[ref.Output]; !ok {
				return rejectf("derivation '%s' output check for '%s' contains output name '%s',"+
					" but this is not a valid output of this derivation. (Valid outputs are [%s].)",
					c.r.drv(), m.name, ref.Output, strings.Join(c.r.names, ", "))
			}
			p = c.r.finalPath(ref.Output)
		}
		listed.Add(p)
	}
	bad := storepath.Set{}
	for _, p := range used {
		if listed.Has(p) != allowed {
			bad.Add(p)
		}
	}
	if len(bad) == 0 {
		return nil
	}
	text := ""
	for _, p := range bad.Sorted() {
		text += "\n  " + c.r.dir.Print(p)
	}
	return rejectf("output '%s' is not allowed to refer to the following paths:%s", c.print(m), text)
}

// closure gives the infos of all that an output reaches, its own first.
func (c *checker) closure(ctx context.Context, info *store.PathInfo) ([]*store.PathInfo, error) {
	if c.infos == nil {
		c.infos = make(map[storepath.Path]*store.PathInfo, len(c.r.job.Inputs)+len(c.r.made))
		for _, in := range c.r.job.Inputs {
			c.infos[in.Path] = in
		}
		for _, m := range c.r.made {
			c.infos[m.info.Path] = m.info
		}
	}
	seen := storepath.NewSet(info.Path)
	all := []*store.PathInfo{info}
	for done := 0; done < len(all); {
		var next []storepath.Path
		for ; done < len(all); done++ {
			for _, ref := range all[done].References {
				if seen.Add(ref) {
					next = append(next, ref)
				}
			}
		}
		infos, err := c.lookUp(ctx, next)
		if err != nil {
			return nil, err
		}
		all = append(all, infos...)
	}
	return all, nil
}

// lookUp gives the infos of paths, and asks the store for those that are neither
// inputs nor new, all at once.
func (c *checker) lookUp(ctx context.Context, paths []storepath.Path) ([]*store.PathInfo, error) {
	var unknown []storepath.Path
	for _, p := range paths {
		if c.infos[p] == nil {
			unknown = append(unknown, p)
		}
	}
	if len(unknown) > 0 {
		found, err := c.r.s.PathInfos(ctx, unknown)
		if err != nil {
			return nil, err
		}
		for i, info := range found {
			if info == nil {
				return nil, &store.InvalidPathError{Path: c.r.dir.Print(unknown[i])}
			}
			c.infos[info.Path] = info
		}
	}
	infos := make([]*store.PathInfo, len(paths))
	for i, p := range paths {
		infos[i] = c.infos[p]
	}
	return infos, nil
}

func (c *checker) print(m *made) string { return c.r.dir.Print(m.info.Path) }
