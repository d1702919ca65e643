package derivation

import (
	"context"
	"fmt"
	"sync"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

// maxMemo bounds how many derivations a Hasher remembers; an operating system
// needs some ten thousands.
const maxMemo = 1 << 17

// Modulo is the hash of a derivation modulo its fixed-output inputs: equal for
// derivations that differ only in how they come by the same fixed contents.
type Modulo struct {
	// Hashes by output. They differ only in kind: those of a fixed output are of
	// the contents, all others of the whole derivation.
	Hashes map[string]nixhash.Hash
	// Deferred tells that some input's path is not known before it is built, so
	// that no output path follows from the hash.
	Deferred bool
}

// Hasher computes hashes of derivations modulo, which means looking at all that
// they depend on. It remembers what it has seen, within bounds, and may be used
// by any number of goroutines at once.
type Hasher struct {
	dir  storepath.Dir
	read func(context.Context, storepath.Path) (*Derivation, error)

	mu   sync.Mutex
	memo map[storepath.Path]Modulo
}

// NewHasher makes a Hasher that gets derivations by read. What read gives for a
// path must always be the same; the Hasher does not keep it.
func NewHasher(dir storepath.Dir, read func(context.Context, storepath.Path) (*Derivation, error)) *Hasher {
	return &Hasher{dir: dir, read: read, memo: map[storepath.Path]Modulo{}}
}

// Modulo computes the hash from which the paths of d's own outputs follow, and
// by which realisations name them: paths of outputs that are in d already do
// not matter.
func (h *Hasher) Modulo(ctx context.Context, d *Derivation) (Modulo, error) {
	w := walk{h: h, known: map[storepath.Path]Modulo{}}
	if err := w.inputs(ctx, d); err != nil {
		return Modulo{}, err
	}
	return w.modulo(d, true)
}

func (h *Hasher) recall(p storepath.Path) (Modulo, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m, ok := h.memo[p]
	return m, ok
}

func (h *Hasher) remember(p storepath.Path, m Modulo) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.memo) >= maxMemo {
		clear(h.memo)
	}
	h.memo[p] = m
}

// walk is one computation. It has its own hold on the hashes that it needs,
// whatever the Hasher forgets meanwhile.
type walk struct {
	h     *Hasher
	known map[storepath.Path]Modulo
}

// visit is a derivation whose inputs are being hashed.
type visit struct {
	path storepath.Path
	drv  *Derivation
	todo []storepath.Path // inputs not looked at yet
}

func newVisit(p storepath.Path, d *Derivation) (*visit, error) {
	v := &visit{path: p, drv: d}
	kind, err := d.Kind()
	if err != nil {
		return nil, err
	}
	if kind == Fixed {
		return v, nil // whatever it depends on
	}
	for in := range d.InputDrvs {
		v.todo = append(v.todo, in)
	}
	return v, nil
}

// inputs hashes all that d depends on, depth first. The stack is our own: how
// deep derivations depend on each other is for others to decide.
func (w *walk) inputs(ctx context.Context, d *Derivation) error {
	root, err := newVisit(storepath.Path{}, d)
	if err != nil {
		return err
	}
	stack := []*visit{root}
	open := map[storepath.Path]bool{}
	for {
		v := stack[len(stack)-1]
		if len(v.todo) == 0 {
			if v == root {
				return nil
			}
			m, err := w.modulo(v.drv, false)
			if err != nil {
				return err
			}
			w.known[v.path] = m
			w.h.remember(v.path, m)
			delete(open, v.path)
			stack = stack[:len(stack)-1]
			continue
		}
		in := v.todo[len(v.todo)-1]
		v.todo = v.todo[:len(v.todo)-1]
		next, err := w.enter(ctx, in, open)
		if err != nil {
			return err
		}
		if next != nil {
			stack = append(stack, next)
		}
	}
}

// enter begins with a derivation, or finds that nothing is to be done for it.
func (w *walk) enter(ctx context.Context, p storepath.Path, open map[storepath.Path]bool) (*visit, error) {
	if _, ok := w.known[p]; ok {
		return nil, nil
	}
	if m, ok := w.h.recall(p); ok {
		w.known[p] = m
		return nil, nil
	}
	if open[p] {
		return nil, fmt.Errorf("%w: derivation '%s' depends on itself", ErrInvalid, w.h.dir.Print(p))
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d, err := w.h.read(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("reading derivation '%s': %w", w.h.dir.Print(p), err)
	}
	open[p] = true
	return newVisit(p, d)
}

// modulo hashes one derivation whose inputs are known. mask leaves out the paths
// of its own outputs.
func (w *walk) modulo(d *Derivation, mask bool) (Modulo, error) {
	kind, err := d.Kind()
	if err != nil {
		return Modulo{}, err
	}
	if kind == Fixed {
		return w.fixed(d)
	}
	m := Modulo{Hashes: make(map[string]nixhash.Hash, len(d.Outputs)), Deferred: kind == Floating || kind == Impure}
	// Several inputs may come down to one hash; their outputs are then one set.
	inputs := map[string]InputNode{}
	for p, node := range d.InputDrvs {
		in := w.known[p]
		m.Deferred = m.Deferred || in.Deferred
		for _, name := range node.Outputs {
			h, ok := in.Hashes[name]
			if !ok {
				return Modulo{}, fmt.Errorf("%w: derivation '%s' wants the output '%s' of '%s', which has no such output", ErrInvalid, d.Name, name, w.h.dir.Print(p))
			}
			key := h.Digest(nixhash.Base16)
			inputs[key] = InputNode{Outputs: append(inputs[key].Outputs, name)}
		}
	}
	for key, n := range inputs {
		inputs[key] = InputNode{Outputs: sortNames(n.Outputs)}
	}
	text, err := d.appendATerm(make([]byte, 0, 4096), w.h.dir, mask, inputs)
	if err != nil {
		return Modulo{}, err
	}
	hash := nixhash.Of(nixhash.SHA256, string(text))
	for name := range d.Outputs {
		m.Hashes[name] = hash
	}
	return m, nil
}

// fixed hashes what a fixed output contains instead of how it is made.
func (w *walk) fixed(d *Derivation) (Modulo, error) {
	m := Modulo{Hashes: map[string]nixhash.Hash{}}
	for name, o := range d.Outputs {
		path, algo, hash, err := o.fields(w.h.dir, d.Name, name)
		if err != nil {
			return Modulo{}, err
		}
		m.Hashes[name] = nixhash.Of(nixhash.SHA256, "fixed:out:"+algo+":"+hash+":"+path)
	}
	return m, nil
}
