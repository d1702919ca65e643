package merge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// The files of a database that a lower needs.
const (
	databaseFile = "db.sqlite"
	schemaFile   = "schema"
)

// writeDatabase makes the database in a directory that is there: of everything that gets in,
// in the order of paths, all of it registered at one time. Nothing else stays in the directory.
func (p *Plan) writeDatabase(ctx context.Context, dir string, registered int64) error {
	realisations, err := p.realisations(ctx)
	if err != nil {
		return err
	}
	db, err := nixdb.Open(ctx, dir, nixdb.Options{Dir: p.dir, NoWAL: true, NoSync: true, Realisations: len(realisations) > 0})
	if err != nil {
		return err
	}
	_, err = db.Load(ctx, p.registrations(ctx, registered))
	if err == nil && len(realisations) > 0 {
		err = db.RegisterRealisations(ctx, realisations)
	}
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := settle(ctx, filepath.Join(dir, databaseFile)); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if e.Name() != databaseFile && e.Name() != schemaFile {
			err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// settle packs a database, which nobody has open, into a form that needs no log to be read.
func settle(ctx context.Context, file string) error {
	conn, err := sqlite.OpenConn(file, sqlite.OpenReadWrite)
	if err != nil {
		return fmt.Errorf("database '%s': %w", file, err)
	}
	conn.SetInterrupt(ctx.Done())
	for _, query := range []string{"pragma journal_mode = delete", "pragma synchronous = off", "vacuum"} {
		if err = sqlitex.ExecuteTransient(conn, query, nil); err != nil {
			err = fmt.Errorf("packing database '%s': %w", file, err)
			break
		}
	}
	return errors.Join(err, conn.Close())
}

// registrations gives all rows.
func (p *Plan) registrations(ctx context.Context, registered int64) iter.Seq2[nixdb.Registration, error] {
	return func(yield func(nixdb.Registration, error) bool) {
		for some := range slices.Chunk(p.items, batch) {
			infos, err := p.infos(ctx, some)
			if err != nil {
				yield(nixdb.Registration{}, err)
				return
			}
			for i, info := range infos {
				r, err := p.registration(some[i], info, registered)
				if !yield(r, err) || err != nil {
					return
				}
			}
		}
	}
}

func (p *Plan) registration(it item, info *store.PathInfo, registered int64) (r nixdb.Registration, err error) {
	r.Info = info.Clone()
	r.Info.Registered = registered
	if it.path.IsDerivation() && it.dir != none {
		r.Outputs, err = outputs(p.dir, p.layers[it.dir].path(it.path), it.path)
	}
	return r, err
}

// outputs reads which outputs of a derivation are known before it is built.
func outputs(dir storepath.Dir, file string, path storepath.Path) (map[string]storepath.Path, error) {
	fail := func(err error) (map[string]storepath.Path, error) {
		return nil, fmt.Errorf("derivation '%s': %w", file, err)
	}
	name, err := derivation.NameFromPath(path)
	if err != nil {
		return fail(err)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, derivation.MaxSize+1))
	if err != nil {
		return fail(err)
	}
	drv, err := derivation.Parse(dir, name, text)
	if err != nil {
		return fail(err)
	}
	all, err := drv.OutputPaths(dir)
	if err != nil {
		return fail(err)
	}
	for name, p := range all {
		if p.IsZero() {
			delete(all, name)
		}
	}
	return all, nil
}

// realisations gives those of the layers whose outputs get in, first wins.
func (p *Plan) realisations(ctx context.Context) ([]*store.Realisation, error) {
	in := make(storepath.Set, len(p.items))
	known := map[store.DrvOutput]bool{}
	var out []*store.Realisation
	for i := range p.layers {
		l := &p.layers[i]
		db := l.database()
		if db == nil {
			continue
		}
		for r, err := range db.AllRealisations(ctx) {
			if err != nil {
				return nil, l.wrap(err)
			}
			if len(in) == 0 {
				for _, it := range p.items {
					in[it.path] = struct{}{}
				}
			}
			if _, ok := in[r.OutPath]; ok && !known[r.ID] {
				known[r.ID] = true
				out = append(out, r)
			}
		}
	}
	slices.SortFunc(out, func(a, b *store.Realisation) int { return strings.Compare(a.ID.String(), b.ID.String()) })
	return out, nil
}
