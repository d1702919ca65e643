package pivot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Where things lie in the stage directory.
const (
	stageTemp  = "tmp"   // copies that are not whole
	stageReady = "new"   // copies
	stageOld   = "old"   // what gave way
	maxCopiers = 4       // at once
	readAhead  = 1 << 17 // bytes
)

func (job *Job) staged(name string) string { return filepath.Join(job.parts.Stage, stageReady, name) }

// Stage makes the copies, aside, and is done when they are on disk. It may be called again, also
// after a crash: what is whole stays. Each is compared with its hash. Those that cannot be made
// are a [*MissingError]; with [Parts.Unreadable] of them another plan can be made.
func (job *Job) Stage(ctx context.Context) error {
	if job.j.Phase != Planned {
		return nil
	}
	stage := job.parts.Stage
	if err := removeTree(ctx, filepath.Join(stage, stageTemp)); err != nil {
		return err
	}
	for _, dir := range []string{stage, filepath.Join(stage, stageTemp), filepath.Join(stage, stageReady), filepath.Join(stage, stageOld)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("making room for copies: %w", err)
		}
	}
	if err := job.copyAll(ctx); err != nil {
		return err
	}
	for _, dir := range []string{filepath.Join(stage, stageReady), stage, filepath.Dir(stage)} {
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	crashpoint.Reached("pivot: all copied")
	return job.advance(Staged)
}

// copyAll makes copies, several at a time.
func (job *Job) copyAll(ctx context.Context) error {
	if len(job.j.copies) == 0 {
		return nil
	}
	total := uint64(0)
	for _, c := range job.j.copies {
		total += c.size
	}
	ctx, act := activity.Start(ctx, activity.Info, activity.CopyPaths, fmt.Sprintf("copying %d objects from the old lower stores", len(job.j.copies)))
	defer act.Stop()
	from, err := job.origins(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next, done atomic.Int64
	var bytes atomic.Uint64
	var mu sync.Mutex
	var missing []Missing
	var all sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), maxCopiers, len(job.j.copies)) {
		all.Go(func() {
			for ctx.Err() == nil {
				n := int(next.Add(1)) - 1
				if n >= len(job.j.copies) {
					return
				}
				c := job.j.copies[n]
				var unreadable *unreadableError
				switch err := job.copyOne(ctx, n, c, from); {
				case errors.As(err, &unreadable):
					mu.Lock()
					missing = append(missing, Missing{Path: c.path, Why: unreadable.err})
					mu.Unlock()
				case err != nil:
					cancel(err)
				}
				act.Progress(bytes.Add(c.size), total, uint64(done.Add(1)), 0)
			}
		})
	}
	all.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if len(missing) > 0 {
		slices.SortFunc(missing, compareMissing)
		return &MissingError{Dir: job.parts.Dir, Missing: missing}
	}
	return nil
}

// origin opens an object of somewhere else as a NAR.
type origin func(ctx context.Context, p storepath.Path) (io.ReadCloser, error)

// origins are the places that copies come from, by name.
func (job *Job) origins(ctx context.Context) (map[string]origin, error) {
	from := map[string]origin{}
	for _, l := range job.parts.Old {
		from[l.Name] = func(ctx context.Context, p storepath.Path) (io.ReadCloser, error) {
			r, w := io.Pipe()
			go func() { w.CloseWithError(nar.Dump(ctx, w, filepath.Join(l.Dir, p.Base()))) }()
			return r, nil
		}
	}
	others := slices.ContainsFunc(job.j.copies, func(c copyItem) bool { return from[c.from] == nil })
	if !others || job.parts.Sources == nil {
		return from, nil
	}
	sources, err := job.parts.Sources(ctx)
	for _, s := range sources {
		if from[s.Name] == nil && s.Err == nil {
			from[s.Name] = func(ctx context.Context, p storepath.Path) (io.ReadCloser, error) {
				return store.OpenNar(store.Verifying(ctx), s.Store, p)
			}
		}
	}
	return from, err
}

// unreadableError says that an object is not to be had where it should be. Other errors are
// about where it is to go.
type unreadableError struct{ err error }

func (e *unreadableError) Error() string { return e.err.Error() }

// copyOne makes the copy with a number.
func (job *Job) copyOne(ctx context.Context, n int, c copyItem, from map[string]origin) error {
	ready := job.staged(c.path.Base())
	if there, err := exists(ready); there || err != nil {
		return err
	}
	open := from[c.from]
	if open == nil {
		return &unreadableError{fmt.Errorf("'%s', which had it, is not there any more", c.from)}
	}
	r, err := open(ctx, c.path)
	if err != nil {
		return job.blame(ctx, c, err)
	}
	defer r.Close()
	temp := filepath.Join(job.parts.Stage, stageTemp, strconv.Itoa(n))
	in := &source{r: r, h: nixhash.SHA256.New()}
	_, err = nar.Restore(ctx, in.buffered(), temp, nar.RestoreOptions{Sync: true})
	if err == nil {
		err = in.check(job.parts.Dir.Print(c.path), c.hash)
	}
	if err != nil {
		var malformed *nar.FormatError
		rmErr := removeTree(context.WithoutCancel(ctx), temp)
		if in.err == nil && !errors.As(err, &malformed) { // it was the writing
			return errors.Join(err, rmErr)
		}
		return errors.Join(job.blame(ctx, c, err), rmErr)
	}
	if err := job.markOpaque(temp); err != nil {
		return err
	}
	if err := syncDirectory(temp); err != nil {
		return err
	}
	crashpoint.Reached("pivot: a copy is complete")
	return move(temp, ready)
}

func (job *Job) blame(ctx context.Context, c copyItem, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return &unreadableError{fmt.Errorf("copying it from '%s': %w", c.from, err)}
}

// markOpaque marks a directory of ours so that nothing shows through.
func (job *Job) markOpaque(path string) error {
	st, err := os.Lstat(path)
	if err != nil || !st.IsDir() {
		return err
	}
	return writable(path, func() error { return overlayfs.SetOpaque(path, job.parts.UserXattr) })
}
