package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/optimise"
)

// checkLinks compares the links of optimised files with their names. The error is the end
// of ctx.
func (x *examination) checkLinks(ctx context.Context) error {
	if !x.selected[0] {
		return nil
	}
	activity.Logf(ctx, activity.Info, "checking link hashes...")
	dir := filepath.Join(x.Layers[0].Dir, optimise.LinksName)
	list, err := readEntries(ctx, dir, runBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		x.couldNotTell(ctx, err)
		return context.Cause(ctx)
	}
	defer list.close()
	var group errgroup.Group
	group.SetLimit(objectsAtOnce)
	for {
		e, ok, err := list.next()
		if err != nil {
			x.couldNotTell(ctx, err)
		}
		if !ok || err != nil || ctx.Err() != nil {
			break
		}
		if e.typ != unix.DT_CHR {
			group.Go(func() error { x.checkLink(ctx, dir, e.name); return nil })
		}
	}
	_ = group.Wait() // none of them fails
	return context.Cause(ctx)
}

func (x *examination) checkLink(ctx context.Context, dir, name string) {
	path := filepath.Join(dir, name)
	h, err := hashObject(ctx, path, nil)
	got := h.hash.Digest(nixhash.Nix32)
	switch {
	case ctx.Err() != nil, errors.Is(err, fs.ErrNotExist), err == nil && got == name:
	case errors.Is(err, fs.ErrPermission):
		x.couldNotTell(ctx, err)
	case err != nil:
		x.found(ctx, x.class(LinkModified), &Finding{Path: visible(path), Detail: err.Error(), nix: err.Error(), data: name})
	default:
		x.found(ctx, x.class(LinkModified), &Finding{
			Path: visible(path), Detail: fmt.Sprintf("expected hash %s, got '%s'", visible(name), got), data: name,
			nix: fmt.Sprintf("link '%s' was modified! expected hash %s, got '%s'", visible(path), visible(name), got),
		})
	}
}

// mendLink deletes a link. It is only an index.
func mendLink(ctx context.Context, r *repairs, f *Finding) error {
	name, ok := f.data.(string)
	if !ok {
		return errNothingKnown
	}
	dir := r.RealDir
	if !r.mounted {
		dir = r.Layers[0].Dir
	}
	err := os.Remove(filepath.Join(dir, optimise.LinksName, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	crashpoint.Reached("check: link deleted")
	activity.Logf(ctx, activity.Info, "removed link '%s'", f.Path)
	return nil
}
