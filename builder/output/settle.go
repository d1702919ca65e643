package output

import (
	"context"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// settle finds out the final path of an output, what has to be rewritten in it, and
// with that its info. Those that it refers to are settled.
func (r *registration) settle(ctx context.Context, name string) error {
	m := r.made[name]
	if m == nil {
		out := r.job.Outputs[name]
		r.move(out.Scratch, out.Path)
		return nil
	}
	var err error
	if m.spec.Kind == derivation.InputAddressed {
		r.settleInputAddressed(m)
	} else {
		err = r.settleContentAddressed(ctx, m)
	}
	if err != nil {
		return r.damage(err)
	}
	if len(m.tree.rewrites) == 0 {
		m.info.NarHash = m.scan.narHash
	}
	m.info.NarSize = m.scan.narSize // hash parts have one length
	m.info.Deriver, m.info.Ultimate = r.job.DrvPath, true
	return nil
}

// move notes that what was built as scratch is at final in the end.
func (r *registration) move(scratch, final storepath.Path) {
	if scratch != final {
		r.moved[scratch.HashPart()] = final.HashPart()
	}
}

func (r *registration) settleInputAddressed(m *made) {
	r.move(m.Scratch, m.spec.Path)
	m.tree.rewrites = r.rewritesIn(m)
	m.info = &store.PathInfo{Path: m.spec.Path}
	m.info.References = r.references(m, m.spec.Path)
}

func (r *registration) settleContentAddressed(ctx context.Context, m *made) error {
	spec, _ := specOf(m.spec)
	regular := m.mode&unix.S_IFMT == unix.S_IFREG && m.mode&unix.S_IXUSR == 0
	if (spec.Method == storepath.Flat || spec.Method == storepath.Text) && !regular {
		return rejectf("output path \"%s\" should be a non-executable regular file "+
			"since recursive hashing is not enabled (one of outputHashMode={flat,text} is true)", m.Real)
	}
	m.tree.rewrites = r.rewritesIn(m) // its own path is not settled, and not among them
	hash := m.scan.address
	if hash.IsZero() || len(m.tree.rewrites) > 0 {
		var err error
		if hash, err = m.tree.hash(ctx, spec, m.Scratch.HashPart()); err != nil {
			return err
		}
	}
	ca := storepath.ContentAddress{Method: spec.Method, Hash: hash}
	final, err := r.makePath(m, ca)
	if err != nil {
		return err
	}
	r.move(m.Scratch, final)
	m.tree.rewrites = r.rewritesIn(m)
	m.info = &store.PathInfo{Path: final, CA: ca, References: r.references(m, final)}
	return nil
}

// makePath computes the path of an output that is addressed by its contents.
func (r *registration) makePath(m *made, ca storepath.ContentAddress) (storepath.Path, error) {
	name := storepath.OutputName(r.job.Drv.Name, m.name)
	refs := storepath.WithoutSelf(m.Scratch, r.references(m, m.Scratch))
	switch {
	case ca.Method == storepath.Text && refs.Self:
		return storepath.Path{}, rejectf("self-reference not allowed with text hashing")
	case ca.Method == storepath.Text, ca.Method == storepath.Recursive && ca.Hash.Algorithm() == nixhash.SHA256:
	case refs.Self || len(refs.Others) > 0:
		return storepath.Path{}, rejectf("fixed output derivation '%s' is not allowed to refer to other store paths.\n"+
			"You may need to use the 'unsafeDiscardReferences' derivation attribute, see the manual for more details.", name)
	}
	return r.dir.Make(name, ca, refs)
}

// rewritesIn are those of the rewrites known so far that change something in an
// output.
func (r *registration) rewritesIn(m *made) rewrites {
	var in rewrites
	for _, part := range m.scan.own {
		if to, ok := r.moved[part]; ok {
			if in == nil {
				in = rewrites{}
			}
			in[part] = to
		}
	}
	return in
}

// references are those of an output once all is at its final place, self being its
// own.
func (r *registration) references(m *made, self storepath.Path) []storepath.Path {
	refs := make([]storepath.Path, 0, len(m.scan.refs))
	for _, p := range m.scan.refs {
		if p == m.Scratch {
			p = self
		} else if name, ok := r.byPart[p.HashPart()]; ok {
			p = r.finalPath(name)
		}
		refs = append(refs, p)
	}
	return storepath.SortUnique(refs)
}

// finalPath is that of an output that is settled.
func (r *registration) finalPath(name string) storepath.Path {
	if m := r.made[name]; m != nil {
		return m.info.Path
	}
	return r.job.Outputs[name].Path
}
