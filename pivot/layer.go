package pivot

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// readLayer looks at what lies in the upper layer.
func (m *maker) readLayer(ctx context.Context) error {
	dir, err := os.Open(m.Layer)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // never mounted
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		entries, err := dir.ReadDir(batch)
		for _, e := range entries {
			if err := m.readEntry(ctx, e); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
	}
}

func (m *maker) readEntry(ctx context.Context, e fs.DirEntry) error {
	name, path := e.Name(), filepath.Join(m.Layer, e.Name())
	if e.Type()&fs.ModeSymlink == 0 && !e.IsDir() {
		white, err := overlayfs.IsWhiteout(path)
		if err != nil {
			return err
		}
		if white {
			m.plan.Whiteouts = append(m.plan.Whiteouts, name)
			return nil
		}
	}
	p, err := storepath.ParseBase(name)
	i := -1
	if err == nil && !gc.IsTempName(name) { // which a new lower may have, too, and which is to hide that
		if i = m.g.Find(p); i < 0 {
			return m.lookAtStray(name)
		}
	}
	return m.readMarks(ctx, i, name, e.IsDir())
}

// readMarks reads OverlayFS's marks of an entry: node i, or -1 for one that is no object,
// such as .links.
func (m *maker) readMarks(ctx context.Context, i int, name string, isDir bool) error {
	path := filepath.Join(m.Layer, name)
	bound, err := overlayfs.Bindings(ctx, path)
	if err != nil {
		return err
	}
	if bound != 0 {
		m.plan.Bound = append(m.plan.Bound, name)
	}
	if i < 0 {
		return nil
	}
	opaque := true
	if isDir {
		if opaque, err = overlayfs.IsOpaque(path); err != nil {
			return err
		}
	}
	m.set(i, own)
	if !opaque {
		m.plan.Merged = append(m.plan.Merged, name)
	}
	if bound.Incomplete() || !opaque && (bound&overlayfs.BoundOrigin != 0 || m.merges(name)) {
		m.nodes[i] = m.nodes[i]&^own | part
	}
	return nil
}

// merges tells whether an old lower has a directory of this name, or might have had.
func (m *maker) merges(name string) bool {
	for _, l := range m.Old {
		if st, err := os.Lstat(filepath.Join(l.Dir, name)); err == nil && st.IsDir() || err != nil && !errors.Is(err, fs.ErrNotExist) {
			return true
		}
	}
	return false
}

// lookAtStray finds out whether an entry that is no valid path would hide something of a
// new lower.
func (m *maker) lookAtStray(name string) error {
	for _, l := range m.New {
		there, err := exists(filepath.Join(l.Dir, name))
		if err != nil {
			return l.wrap(err)
		}
		if there {
			m.plan.Hiding = append(m.plan.Hiding, name)
			return nil
		}
	}
	return nil
}

// judgePart decides what an entry is worth of which the upper may have only a part. Where
// lowers have the whole, the part goes.
func (m *maker) judgePart(ctx context.Context, i int, here *store.PathInfo, inNew bool) error {
	p := m.g.Path(i)
	whole := false
	if !inNew && here != nil {
		infos, _, err := layers(m.Old).alike(ctx, []storepath.Path{p}, []*store.PathInfo{here})
		if err != nil {
			return err
		}
		if infos[0] == nil {
			got, err := hashTree(ctx, filepath.Join(m.Layer, p.Base()))
			if err != nil {
				return err
			}
			whole = got == here.NarHash
		}
	}
	if whole {
		m.nodes[i] = m.nodes[i]&^part | own
	} else {
		m.set(i, aside)
	}
	return nil
}

// hashTree gives the SHA-256 hash of a tree's NAR, zero for what no NAR can have in it.
func hashTree(ctx context.Context, path string) (nixhash.Hash, error) {
	h := nixhash.SHA256.New()
	err := nar.Dump(ctx, h, path)
	if errors.Is(err, nar.ErrUnsupportedType) {
		return nixhash.Hash{}, nil
	}
	return nixhash.Sum(nixhash.SHA256, h), err
}
