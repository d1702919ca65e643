package lazy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Scope is a set of paths that are valid in a lazy store while all else is not:
// what one tenant may see of a cache. It is the closure of some roots, or a manifest.
type Scope struct {
	roots []storepath.Path // nil: a manifest

	turn   chan struct{} // holds one while somebody finds out the set; nil: it is known
	set    storepath.Set // nil: not known yet
	failed failure       // why it could not be found out, until when
}

// ClosureScope has roots and all that they refer to, directly or not. It is found out when it is
// first needed; while an origin cannot be asked, nothing can be told of any path.
func ClosureScope(roots ...storepath.Path) *Scope {
	return &Scope{roots: roots, turn: make(chan struct{}, 1)}
}

// MaxManifest bounds the bytes of a manifest: of 10^7 paths.
const MaxManifest = 1 << 30

// ParseManifest reads a manifest: one store path a line, in full. Empty lines and what
// begins with '#' are passed over. name is what errors call it.
func ParseManifest(name string, dir storepath.Dir, text []byte) (*Scope, error) {
	set := storepath.Set{}
	n := 0
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		n++
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		p, err := dir.Parse(line)
		if err != nil {
			return nil, fmt.Errorf("manifest '%s', line %d: %w", name, n, err)
		}
		set.Add(p)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("manifest '%s', line %d: %w", name, n+1, err)
	}
	return &Scope{set: set}, nil
}

// members gives the set. Who has waited for somebody who could not find it out does not try once more.
func (sc *Scope) members(ctx context.Context, s *Store) (storepath.Set, error) {
	if sc.turn == nil {
		return sc.set, nil
	}
	came := time.Now()
	select {
	case sc.turn <- struct{}{}:
		defer func() { <-sc.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	switch {
	case sc.set != nil:
		return sc.set, nil
	case came.Before(sc.failed.until):
		return nil, sc.failed.err
	}
	infos, err := store.Closure(ctx, unscoped{s}, sc.roots)
	if err != nil {
		err = fmt.Errorf("finding what is pinned: %w", err)
		if ctx.Err() == nil {
			sc.failed = failure{err, time.Now()}
		}
		return nil, err
	}
	set := make(storepath.Set, len(infos))
	for _, info := range infos {
		set.Add(info.Path)
	}
	sc.set = set
	return set, nil
}

// unscoped is a store as it would be without its scope.
type unscoped struct{ *Store }

func (u unscoped) PathInfos(ctx context.Context, paths []storepath.Path) ([]*store.PathInfo, error) {
	infos, err := u.pathInfos(ctx, paths)
	var partial *store.PartialError
	if errors.As(err, &partial) {
		return nil, err // a closure is known as a whole or not at all
	}
	return infos, err
}
