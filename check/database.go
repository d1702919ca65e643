package check

import (
	"context"
	"errors"
	"fmt"

	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/store"
)

// codes are the classes of what a database finds wrong with itself.
var codes = map[nixdb.DamageKind]Code{
	nixdb.DamagedPages:  DatabaseCorrupt,
	nixdb.DamagedSchema: DatabaseSchema,
	nixdb.DamagedFiles:  DatabaseFiles,
	nixdb.DamagedIndex:  DatabaseIndex,
	nixdb.DamagedRow:    DatabaseRow,
	nixdb.DanglingRow:   ReferenceDangling,
}

// findDatabaseDamage finds what is wrong with the databases of all layers, for all
// classes that are about them.
func findDatabaseDamage(ctx context.Context, x *examination, _ func(*Finding)) error {
	how := nixdb.Quick
	if x.opts.Contents && x.round == 0 {
		how = nixdb.Thorough
	}
	var errs []error
	for i := range x.Layers {
		l := &x.Layers[i]
		if !x.listed(i) {
			continue
		}
		damage, err := l.DB.Check(ctx, how)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", l.Name, err))
		}
		for _, d := range damage {
			f := &Finding{layer: i, Path: fmt.Sprintf("database of %s", l.Name), Detail: d.Text, path: d.Path, data: d}
			if !d.Path.IsZero() {
				f.Path = x.Dir.Print(d.Path)
			}
			x.found(ctx, x.class(codes[d.Kind]), f)
		}
	}
	return errors.Join(errs...)
}

// own gives the database that may be written to.
func (r *repairs) own(f *Finding) (*nixdb.DB, error) {
	if f.layer != 0 {
		return nil, errOfLower
	}
	return r.Layers[0].DB, nil
}

// errOfLower: repairs never touch a lower.
var errOfLower = errors.New("it is in a lower, which only its owner can mend")

// errNothingKnown is for findings without what their repair needs.
var errNothingKnown = errors.New("there is nothing known that could be done")

func mendIndices(ctx context.Context, r *repairs, fs []*Finding) {
	r.mendDatabase(ctx, fs, (*nixdb.DB).Reindex)
}

func mendDatabaseFiles(ctx context.Context, r *repairs, fs []*Finding) {
	r.mendDatabase(ctx, fs, (*nixdb.DB).MendFiles)
}

// mendDatabase mends many findings with one operation.
func (r *repairs) mendDatabase(ctx context.Context, fs []*Finding, mend func(*nixdb.DB, context.Context) error) {
	done := false
	var doneErr error
	for _, f := range fs {
		db, err := r.own(f)
		if err == nil {
			if !done {
				done, doneErr = true, mend(db, ctx)
			}
			err = doneErr
		}
		r.settle(ctx, f, err)
	}
}

// mendRow makes a row understandable. What it should say is known by a lower that has
// the path, if any.
func mendRow(ctx context.Context, r *repairs, f *Finding) error {
	db, err := r.own(f)
	if err != nil {
		return err
	}
	d, ok := f.data.(nixdb.Damage)
	if !ok {
		return errNothingKnown
	}
	known, err := r.fromLower(ctx, f)
	if err != nil {
		return err
	}
	err = db.MendRow(ctx, d, known)
	var row *nixdb.RowError
	if errors.As(err, &row) && !d.Path.IsZero() {
		return r.drop(ctx, f, err)
	}
	if err == nil && d.Table == "DerivationOutputs" && r.Tools.Reregister != nil && !d.Path.IsZero() {
		return r.Tools.Reregister(ctx, d.Path)
	}
	return err
}

// fromLower gives what the first lower says that has the path of a finding, nil if
// none has it.
func (r *repairs) fromLower(ctx context.Context, f *Finding) (*store.PathInfo, error) {
	if f.path.IsZero() {
		return nil, nil //nolint:nilnil // see above
	}
	for i := range r.Layers[1:] {
		l := &r.Layers[i+1]
		info, err := l.info(ctx, f.path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.Name, err)
		}
		if info != nil {
			return info, nil
		}
	}
	return nil, nil //nolint:nilnil // see above
}
