package stack

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/overlay"
	"github.com/strata-nix/strata/storepath"
)

// newHolds are the holds on lowers that an upper is about to be moved to. Their owners are told
// before it is: at no moment may something that the upper leans on be garbage to them.
type newHolds struct {
	s     *Stack
	found []*found
	use   *newUsage

	mu    sync.Mutex
	holds []*held // nil: not opened yet
	told  []storepath.Set
}

// newUsage is what the upper is going to use.
type newUsage struct {
	stores []store.Store
	leans  [][]storepath.Path
}

// Leaning implements usage.
func (u *newUsage) Leaning(context.Context) ([]overlay.Leaning, error) {
	out := make([]overlay.Leaning, len(u.leans))
	for i, roots := range u.leans {
		out[i] = overlay.Leaning{Roots: roots, Uses: uint64(len(roots))}
	}
	return out, nil
}

// LowerValid implements usage.
func (u *newUsage) LowerValid(ctx context.Context, lower int, paths []storepath.Path) ([]storepath.Path, error) {
	return u.stores[lower].ValidPaths(ctx, paths)
}

func (s *Stack) newHolds(found []*found, stores []store.Store) *newHolds {
	return &newHolds{s: s, found: found, use: &newUsage{stores: stores}, told: make([]storepath.Set, len(found))}
}

// open opens them. A lower that is also an old one keeps its hold, which knows what is used now.
func (n *newHolds) open(ctx context.Context) error {
	holds, err := n.s.openHolds(ctx, n.found, n.use.stores, n.use)
	if err != nil {
		return err
	}
	now := n.s.background.held()
	for _, h := range holds {
		if i := slices.IndexFunc(now, func(o *held) bool { return o.told() == h.told() }); i >= 0 {
			h.do = now[i].do
			continue
		}
		if l, ok := h.do.(leaseHolder); ok {
			if err := l.Resume(ctx); err != nil && h.required {
				return fmt.Errorf("lower '%s': %w", h.st.Lower, err)
			}
		}
	}
	if n.holds = holds; len(holds) == 0 {
		n.holds = []*held{}
		return nil
	}
	_, err = n.s.noteTold(holds) // beside the others, which are taken back when the stack is up
	return err
}

// tell tells of what a plan leans on, but for what was told before, and returns when no collection
// of a lower can take it any more.
func (n *newHolds) tell(ctx context.Context, leans [][]storepath.Path) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.use.leans = leans
	if n.holds == nil {
		if err := n.open(ctx); err != nil {
			return err
		}
	}
	for _, h := range n.holds {
		paths := leans[h.lower]
		if told := n.told[h.lower]; told != nil {
			paths = told.Missing(paths)
		}
		if len(paths) == 0 {
			continue
		}
		if err := h.lean(ctx, paths); err != nil {
			return fmt.Errorf("lower '%s': %w", h.st.Lower, err)
		}
	}
	for i, paths := range leans {
		n.told[i] = storepath.NewSet(paths...)
	}
	return nil
}

// lean tells of more of one lower.
func (n *newHolds) lean(ctx context.Context, lower int, paths []storepath.Path) error {
	leans := make([][]storepath.Path, len(n.found))
	leans[lower] = paths
	return n.tell(ctx, leans)
}

// leanArg is what a lean request says.
type leanArg struct {
	Lower int      `json:"lower"` // number
	Paths []string `json:"paths"` // without the store directory
}

// pathsAtOnce is how many paths one request names.
const pathsAtOnce = 200

// lean has the process that serves a stack tell the owner of a lower what is about to be used of it.
func (r *Run) lean(ctx context.Context, lower int, paths []storepath.Path) error {
	for chunk := range slices.Chunk(paths, pathsAtOnce) {
		arg := leanArg{Lower: lower}
		for _, p := range chunk {
			arg.Paths = append(arg.Paths, p.Base())
		}
		var done bool
		if err := r.ask(ctx, askLean, arg, &done); err != nil {
			return err
		}
	}
	return nil
}

// leanAsked answers such a request.
func (s *Stack) leanAsked(ctx context.Context, text json.RawMessage) (any, error) {
	var arg leanArg
	if err := json.Unmarshal(text, &arg); err != nil {
		return nil, err
	}
	if arg.Lower < 0 || arg.Lower >= len(s.found) {
		return nil, fmt.Errorf("stack '%s' has no lower %d", s.Config.Name, arg.Lower)
	}
	paths, err := parseBases(arg.Paths)
	if err != nil {
		return nil, err
	}
	return true, s.lean(ctx, arg.Lower, paths)
}

// parseBases reads paths without the store directory.
func parseBases(names []string) ([]storepath.Path, error) {
	paths := make([]storepath.Path, len(names))
	for i, name := range names {
		var err error
		if paths[i], err = storepath.ParseBase(name); err != nil {
			return nil, err
		}
	}
	return paths, nil
}
