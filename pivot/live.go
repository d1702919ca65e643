package pivot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// keeps gives the edges by which a live path keeps others: those by which a collection of the
// upper's garbage goes.
func (m *maker) keeps(ctx context.Context) (gc.Keeps, error) {
	l := gc.Liveness{KeepOutputs: m.KeepOutputs, KeepDerivations: m.KeepDerivations}
	if m.CADerivations {
		hasher := derivation.NewHasher(m.Dir, m.derivation)
		l.Outputs = func(ctx context.Context, p storepath.Path) (map[string]storepath.Path, error) {
			drv, err := m.derivation(ctx, p)
			if err != nil {
				return nil, err
			}
			return store.OutputsOf(ctx, m.Dir, drv, hasher, m.DB)
		}
	}
	return l.Keeps(ctx, m.Dir, m.g)
}

// derivation reads a derivation of the upper's database from where it lies: the layer, an old lower
// or a new one.
func (m *maker) derivation(_ context.Context, p storepath.Path) (*derivation.Derivation, error) {
	var dirs []string
	if i := m.g.Find(p); i >= 0 && m.is(i, own) {
		dirs = append(dirs, m.Layer)
	}
	for _, l := range m.Old {
		dirs = append(dirs, l.Dir)
	}
	for _, l := range m.New {
		dirs = append(dirs, l.Dir)
	}
	for _, dir := range dirs {
		drv, err := m.readDerivation(filepath.Join(dir, p.Base()), p)
		if !errors.Is(err, fs.ErrNotExist) {
			return drv, err
		}
	}
	return nil, fmt.Errorf("derivation '%s': %w", m.Dir.Print(p), fs.ErrNotExist)
}

// readDerivation reads the file of a derivation.
func (m *maker) readDerivation(file string, p storepath.Path) (*derivation.Derivation, error) {
	name, err := derivation.NameFromPath(p)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, derivation.MaxSize+1))
	if err != nil {
		return nil, err
	}
	return derivation.Parse(m.Dir, name, text)
}
