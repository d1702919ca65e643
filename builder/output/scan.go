package output

import (
	"context"
	"crypto/sha256"
	"hash"
	"io"
	"maps"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nar/refscan"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

// partIndex maps hash parts to paths.
type partIndex map[string]storepath.Path

func (x partIndex) add(p storepath.Path) { x[p.HashPart()] = p }

// scan is what one reading of an output told.
type scan struct {
	narHash nixhash.Hash // zero: as address
	narSize uint64
	// address is the hash of the NAR modulo the output's own scratch path; zero where
	// something else is addressed.
	address nixhash.Hash
	// own are the hash parts of scratch paths that occur, sorted.
	own []string
	// refs are the paths that the output refers to, scratch paths among them, sorted.
	refs []storepath.Path
}

// examine reads each output once.
func (r *registration) examine(ctx context.Context) error {
	copies := map[string]string{}
	if r.needsCopy() {
		for name := range r.made {
			to, err := r.tempPath(ctx)
			if err != nil {
				return err
			}
			copies[name] = to
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for name, m := range r.made {
		g.Go(func() error { return r.examineOne(ctx, m, copies[name]) })
	}
	return r.damage(g.Wait())
}

// needsCopy tells that something outside of the sandbox may have got hold of the
// files of the outputs, over the network of the machine, and still write to them.
// Our own builders give nothing to anybody.
func (r *registration) needsCopy() bool {
	return !r.kind.IsSandboxed() && !r.job.Drv.IsBuiltin()
}

// examineOne scans an output, and moves it to a copy at the path to, unless that is
// empty.
func (r *registration) examineOne(ctx context.Context, m *made, to string) error {
	discard := r.job.Attrs.UnsafeDiscardReferences[m.name]
	parts := r.parts
	if discard {
		parts = r.own // they are rewritten all the same
	}
	scanner, err := refscan.New(slices.Collect(maps.Keys(parts)))
	if err != nil {
		return err
	}
	sums, err := newSums(m)
	if err != nil {
		return err
	}
	w := io.MultiWriter(append(sums.writers(), scanner)...)
	if to == "" {
		err = m.tree.dump(ctx, w)
	} else {
		err = m.tree.copyTo(ctx, to, w)
		m.tree.path = to
	}
	if err != nil {
		return err
	}
	if m.scan, err = sums.finish(); err != nil {
		return err
	}
	for _, part := range scanner.Found() {
		if _, own := r.own[part]; own {
			m.scan.own = append(m.scan.own, part)
		}
		if !discard {
			m.scan.refs = append(m.scan.refs, parts[part])
		}
	}
	return nil
}

// sums are the hashes that are taken while an output is scanned. A NAR is not
// hashed twice with one algorithm: as long as nothing of it is rewritten, its hash
// and the one modulo the scratch path are the same, and else both come later.
type sums struct {
	nar     hash.Hash       // nil: modulo is enough
	modulo  *refscan.Modulo // nil: something else than the NAR is addressed
	algo    nixhash.Algorithm
	counter counter
}

func newSums(m *made) (*sums, error) {
	s := &sums{}
	spec, addressed := specOf(m.spec)
	if addressed && spec.Method == storepath.Recursive {
		s.algo = spec.Algorithm
		var err error
		if s.modulo, err = refscan.NewModulo(s.algo.New(), m.Scratch.HashPart()); err != nil {
			return nil, err
		}
	}
	if s.algo != nixhash.SHA256 {
		s.nar = sha256.New()
	}
	return s, nil
}

func (s *sums) writers() []io.Writer {
	w := []io.Writer{&s.counter}
	if s.nar != nil {
		w = append(w, s.nar)
	}
	if s.modulo != nil {
		w = append(w, s.modulo)
	}
	return w
}

func (s *sums) finish() (scan, error) {
	out := scan{narSize: uint64(s.counter)}
	if s.nar != nil {
		out.narHash = nixhash.Sum(nixhash.SHA256, s.nar)
	}
	if s.modulo == nil {
		return out, nil
	}
	var err error
	out.address, err = nixhash.New(s.algo, s.modulo.Sum())
	if s.nar == nil {
		out.narHash = out.address
	}
	return out, err
}

// counter counts what passes.
type counter uint64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// specOf tells how an output is addressed by its contents, if it is.
func specOf(o derivation.Output) (storepath.Spec, bool) {
	switch o.Kind {
	case derivation.Fixed:
		return storepath.Spec{Method: o.CA.Method, Algorithm: o.CA.Hash.Algorithm()}, true
	case derivation.Floating, derivation.Impure:
		return o.Spec, true
	default:
		return storepath.Spec{}, false
	}
}
