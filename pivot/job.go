package pivot

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/nar"
)

// Job is a pivot that is under way. It is for one goroutine at a time, and one job of an
// upper.
type Job struct {
	parts Parts
	j     *journal
}

// ErrCommitted: it is too late to roll a job back.
var ErrCommitted = errors.New("it is committed, and can only be gone on with")

// ErrUnderWay: another job was begun and has not ended.
var ErrUnderWay = errors.New("another pivot is under way; continue it or roll it back")

// Begin writes a plan down as a job. target is what [Header.Target] is to have. The journal is
// on disk when this returns; nothing else was written.
func Begin(_ context.Context, parts Parts, plan *Plan, target any) (*Job, error) {
	fail := func(err error) (*Job, error) { return nil, fmt.Errorf("beginning a pivot: %w", err) }
	if _, err := os.Lstat(parts.Journal); err == nil {
		return fail(ErrUnderWay)
	}
	raw, err := json.Marshal(target)
	if err != nil {
		return fail(err)
	}
	// What lies at the place of the copies is of nobody.
	if err := removeTree(context.Background(), parts.Stage); err != nil {
		return fail(err)
	}
	job := &Job{parts: parts, j: newJournal(parts.Dir, plan, raw)}
	if err := job.write(); err != nil {
		return fail(err)
	}
	crashpoint.Reached("pivot: journal written")
	return job, nil
}

// write puts the journal in its place.
func (job *Job) write() (err error) {
	temp := job.parts.Journal + ".new"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	err = job.j.encode(w)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		var st fs.FileInfo
		if st, err = f.Stat(); err == nil {
			job.j.size = st.Size()
		}
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	if err := os.Rename(temp, job.parts.Journal); err != nil {
		return err
	}
	return syncDir(filepath.Dir(job.parts.Journal))
}

// Change puts another plan in the place of one that is not committed, for the same lowers: what
// was planned while clients went on working. Copies that are made stay.
func (job *Job) Change(_ context.Context, plan *Plan) error {
	if !job.j.Phase.canRollBack() {
		return fmt.Errorf("changing the plan of a pivot: %w", ErrCommitted)
	}
	next := newJournal(job.parts.Dir, plan, job.j.Target)
	next.ID, next.Created = job.j.ID, job.j.Created
	before := job.j
	job.j = next
	if err := job.write(); err != nil {
		job.j = before
		return fmt.Errorf("changing the plan of a pivot: %w", err)
	}
	crashpoint.Reached("pivot: journal changed")
	return nil
}

// Open takes up the job that a journal tells of. [ErrNoJob] says that there is none.
func Open(parts Parts) (*Job, error) {
	j, err := load(parts.Journal)
	if err != nil {
		return nil, err
	}
	if j.StoreDir != string(parts.Dir) {
		return nil, fmt.Errorf("'%s': %w: it is about the store directory '%s'", parts.Journal, ErrJournal, j.StoreDir)
	}
	return &Job{parts: parts, j: j}, nil
}

// Header tells what the job is about and how far it has come.
func (job *Job) Header() Header { return job.j.Header }

// Phase is how far the job has come.
func (job *Job) Phase() Phase { return job.j.Phase }

// advance notes that a phase has been reached, on disk.
func (job *Job) advance(p Phase) error {
	f, err := os.OpenFile(job.parts.Journal, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("noting that the pivot is %s: %w", p, err)
	}
	text, err := json.Marshal(line{Phase: p})
	if err == nil {
		err = f.Truncate(job.j.size) // a line that was torn
	}
	if err == nil {
		_, err = f.WriteAt(append(text, '\n'), job.j.size)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("noting that the pivot is %s: %w", p, err)
	}
	job.j.size += int64(len(text)) + 1
	job.j.Phase = p
	crashpoint.Reached("pivot: " + string(p))
	return nil
}

// Rollback ends a job that is not committed, and leaves the upper as it was.
func (job *Job) Rollback(ctx context.Context) error {
	if !job.j.Phase.canRollBack() {
		return fmt.Errorf("rolling a pivot back: %w", ErrCommitted)
	}
	return job.end(ctx)
}

// Finish ends a job that is applied: what gave way is deleted, and the journal. The new
// lowers must be in place. Programs that run over the old ones may have files of what is deleted
// open, but find nothing in it any more.
func (job *Job) Finish(ctx context.Context) error {
	if job.j.Phase != Applied {
		return fmt.Errorf("finishing a pivot: it is only %s", job.j.Phase)
	}
	return job.end(ctx)
}

// end removes what is aside, and then the journal.
func (job *Job) end(ctx context.Context) error {
	if err := removeTree(ctx, job.parts.Stage); err != nil {
		return fmt.Errorf("removing what a pivot had aside: %w", err)
	}
	crashpoint.Reached("pivot: nothing is aside any more")
	if err := os.Remove(job.parts.Journal); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := syncDir(filepath.Dir(job.parts.Journal)); err != nil {
		return err
	}
	crashpoint.Reached("pivot: journal removed")
	return nil
}

// removeTree removes what is there, if it is.
func removeTree(ctx context.Context, path string) error {
	_, err := nar.RemoveTree(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
