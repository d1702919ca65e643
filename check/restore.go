package check

import (
	"context"

	"github.com/strata-nix/strata/storepath"
)

// Restore brings the objects of valid paths back that are lost or not what is registered, as a
// repair does: from another layer, from substituters, by a new build, what is referred to first.
// Nothing is looked for and nothing given up. It gives why each of the others cannot be had; the
// error is for what kept it from trying.
func Restore(ctx context.Context, t Target, paths []storepath.Path) (map[storepath.Path]error, error) {
	x, err := newExamination(ctx, t, Options{Repair: true})
	if err != nil {
		return nil, err
	}
	defer x.holdMount()()
	x.readTemporaryRoots()
	if x.kept, err = x.readKept(); err != nil {
		return nil, err
	}
	r := &repairs{examination: x}
	var findings []*Finding
	for _, p := range paths {
		findings = append(findings, &Finding{Code: RowWithoutObject, Path: t.Dir.Print(p), path: p, name: p.Base()})
	}
	r.sort(ctx, findings)
	failed := map[storepath.Path]error{}
	for _, f := range findings {
		if err := mendObject(ctx, r, f); err != nil {
			failed[f.path] = err
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return failed, nil
}
