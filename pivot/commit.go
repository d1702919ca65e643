package pivot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/overlayfs"
)

// Commit makes the upper one for the new lowers. Its first step, one write to the journal, decides:
// what comes after can be done again until it is done, and the end of ctx does not stop it. An
// error after that leaves a job that has to be gone on with ([Phase] is [Committed]).
//
// All copies must be staged. Nobody may use the upper meanwhile; an overlay over the new lowers
// may exist if nobody has looked into it yet.
func (job *Job) Commit(ctx context.Context) error {
	switch job.j.Phase {
	case Planned:
		return errors.New("committing a pivot: not all copies are made")
	case Staged:
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := job.advance(Committed); err != nil {
			return err
		}
	case Applied:
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	ctx, act := activity.Start(ctx, activity.Talkative, activity.Unknown, "bringing the upper in line with its new lower stores")
	defer act.Stop()
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"parts are aside", job.putAside},
		{"copies are in place", job.install},
		{"marks are right", job.mark},
		{"layer is on disk", job.sync},
		{"rows are rewritten", job.rewrite},
		{"what gave way is aside", job.giveWay},
		{"roots are removed", job.unlink},
	} {
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("the pivot is committed and not complete: %w", err)
		}
		crashpoint.Reached("pivot: " + step.name)
	}
	return job.advance(Applied)
}

// aside moves entries of the layer out of it.
func (job *Job) aside(names []string) error {
	old := filepath.Join(job.parts.Stage, stageOld)
	if err := os.MkdirAll(old, 0o700); err != nil {
		return err
	}
	paths := join(job.parts.Layer, old)
	for _, name := range names {
		from, to := paths(name)
		if err := moveIfThere(from, to); err != nil {
			return err
		}
	}
	return nil
}

// putAside takes away what stands in the way of copies and of new lowers' objects. After a
// crash some of it may have been replaced by its copy already.
func (job *Job) putAside(context.Context) error {
	var names []string
	for _, name := range job.j.aside {
		there, err := exists(filepath.Join(job.parts.Stage, stageOld, name))
		if err != nil {
			return err
		}
		if !there {
			names = append(names, name)
		}
	}
	if err := job.aside(names); err != nil || job.parts.Work == "" {
		return err
	}
	// An index of a mount that had one is of the old lowers.
	return moveIfThere(filepath.Join(job.parts.Work, "index"), filepath.Join(job.parts.Stage, stageOld, ".index"))
}

// install puts the copies in their places.
func (job *Job) install(context.Context) error {
	paths := join(filepath.Join(job.parts.Stage, stageReady), job.parts.Layer)
	for n, c := range job.j.copies {
		from, to := paths(c.path.Base())
		if err := moveIfThere(from, to); err != nil {
			return err
		}
		if n == 0 {
			crashpoint.Reached("pivot: a copy is in place")
		}
	}
	return nil
}

// mark removes marks that mean something only over the old lowers, and whiteouts, and makes
// directories opaque.
func (job *Job) mark(ctx context.Context) error {
	for _, name := range job.j.white {
		err := overlayfs.RemoveWhiteout(filepath.Join(job.parts.Layer, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, overlayfs.ErrNotWhiteout) {
			return err
		}
	}
	crashpoint.Reached("pivot: whiteouts are gone")
	for _, name := range job.j.unbind {
		path := filepath.Join(job.parts.Layer, name)
		if _, err := overlayfs.Unbind(ctx, path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := overlayfs.UnbindRoot(job.parts.Layer); err != nil {
		return err
	}
	crashpoint.Reached("pivot: no marks of old lowers")
	for _, name := range job.j.opaque {
		if err := job.markOpaque(filepath.Join(job.parts.Layer, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// sync puts the names and marks in the layer on disk; the copies are there already.
func (job *Job) sync(context.Context) error {
	d, err := os.Open(job.parts.Layer)
	if err != nil {
		return err
	}
	defer d.Close()
	if len(job.j.opaque)+len(job.j.unbind) > 0 { // in many places
		if err := unix.Syncfs(int(d.Fd())); err != nil {
			return fmt.Errorf("syncing '%s': %w", job.parts.Layer, err)
		}
		return nil
	}
	return d.Sync()
}

func (job *Job) rewrite(ctx context.Context) error {
	r := nixdb.Rewrite{Drop: job.j.drop}
	for _, row := range job.j.put {
		r.Put = append(r.Put, nixdb.Registration{Info: row.Info, Outputs: row.Outputs})
	}
	if len(r.Put)+len(r.Drop) == 0 {
		return nil
	}
	job.parts.DB.SpendReserve() // the copies may have filled the disk
	defer job.parts.DB.Reserve()
	if err := job.parts.DB.Rewrite(ctx, r); err != nil {
		return err
	}
	crashpoint.Reached("pivot: rows are rewritten, not synced")
	return job.parts.DB.Sync()
}

// giveWay takes duplicates out of the layer, and what has no row any more.
func (job *Job) giveWay(context.Context) error { return job.aside(job.j.remove) }

// unlink removes gc roots that lead to nothing. Only those are touched that still do.
func (job *Job) unlink(context.Context) error {
	for _, link := range job.j.unlink {
		target, err := os.Readlink(link)
		if errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(link, job.parts.StateDir+"/") {
			continue
		}
		if err != nil {
			return err
		}
		if _, _, err := job.parts.Dir.Split(target); err != nil {
			continue // it leads somewhere else by now
		}
		if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
