package local

import (
	"context"
	"errors"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// importJobs is how many objects are under way at once unless options say
// otherwise.
const importJobs = 16

// maxHeld bounds how many objects are locked, each by an open file: those under
// way, and those that are complete and wait for what they refer to.
const maxHeld = 512

// Import makes many objects valid at once, see [store.Importer].
//
// Who holds locks does not wait for others: an object is locked only when all that it
// refers to is valid, or locked by this very import. So whatever different sources and
// processes say of the graph, what somebody holds can be registered without anybody else,
// and nobody waits in a circle. A lock that somebody else has keeps only that object
// waiting, and what refers to it; it is asked for again and again, and takes no slot
// meanwhile. (Stock Nix holds the lock of an object whose references are valid, which
// is the same rule.)
//
// One goroutine, the caller's, decides everything. Others fetch, and one registers:
// what is complete when one transaction has ended is the next one.
func (s *Store) Import(ctx context.Context, imports []store.Import, o store.ImportOptions) error {
	if err := s.writable(); err != nil {
		return err
	}
	if o.Roots == nil {
		o.Roots = store.TempRootsOf(ctx)
	}
	if o.Roots == nil {
		roots := s.NewTempRoots()
		defer func() { _ = roots.Close() }() // what is valid by then is on its own
		o.Roots = roots
	}
	if o.Jobs <= 0 {
		o.Jobs = importJobs
	}
	objects := make([]*object, len(imports))
	for i := range imports {
		objects[i] = newObject(i, &imports[i])
	}
	im := &importer{s: s, opts: o, lost: storepath.Set{}}
	for len(objects) > 0 {
		if err := im.run(ctx, objects); err != nil {
			im.abandon(objects, err)
			return errors.Join(append(im.failed, err)...)
		}
		// Objects whose next offer refers to what this run had not locked, and what
		// refers to them.
		objects = im.deferred
	}
	return errors.Join(im.failed...)
}

// importer is an import under way. Its fields belong to the goroutine of run.
type importer struct {
	s      *Store
	opts   store.ImportOptions
	lost   storepath.Set // what could not be had
	failed []error       // of what failed by itself

	// The rest is of one run.
	tmp        *tempDir
	byPath     map[storepath.Path]*object
	valid      storepath.Set // what objects refer to beside each other, as far as it is known to be valid
	startable  []*object     // wait for nothing but a slot
	ready      []*object     // complete, and all that they refer to is valid, or before them in here
	elsewhere  []*object     // locked by somebody else
	deferred   []*object     // for another run
	open       int           // objects whose outcome is not certain
	held       int           // locks
	running    int           // goroutines that fetch or ask
	writing    bool          // a transaction is under way
	readySince time.Time     // when the first of ready was
	pause      time.Duration // before locks of others are asked for again
	toldWait   bool
	fatal      error       // why no object can be had any more
	events     chan func() // what goroutines have to tell, for run to call
}

// run goes on until the outcome of all objects is certain, or put off. Afterwards
// nothing is left on disk of what is not valid, and nobody is at work any more.
func (im *importer) run(ctx context.Context, objects []*object) (err error) {
	im.byPath, im.valid = make(map[storepath.Path]*object, len(objects)), storepath.Set{}
	im.startable, im.ready, im.elsewhere, im.deferred = nil, nil, nil, nil
	im.open, im.held, im.events = 0, 0, make(chan func(), im.opts.Jobs)
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		im.fatal = err // whatever ends now only gives back what it has
		cancel()
		for im.running > 0 || im.writing {
			(<-im.events)()
		}
		im.release(context.WithoutCancel(ctx), objects)
	}()
	if err := im.prepare(ctx, objects); err != nil {
		return err
	}
	for im.open > 0 && im.fatal == nil {
		if err := im.start(ctx); err != nil {
			return err
		}
		if im.running == 0 && !im.writing && len(im.elsewhere) == 0 {
			im.breakCircle(ctx)
		} else if err := im.wait(ctx); err != nil {
			return err
		}
	}
	return im.fatal
}

// release gives back what a run leaves.
func (im *importer) release(ctx context.Context, objects []*object) {
	for _, o := range objects {
		im.unlock(o)
	}
	if im.tmp != nil {
		im.tmp.remove(ctx)
		im.tmp = nil
	}
}

// abandon tells that those objects will not come of which nothing was certain.
func (im *importer) abandon(objects []*object, err error) {
	for _, o := range objects {
		if !o.state.certain() {
			im.tell(o, nil, err)
		}
	}
}

// tell tells an outcome.
func (im *importer) tell(o *object, from *store.Offer, err error) {
	if im.opts.Done != nil {
		im.opts.Done(o.index, from, err)
	}
	for _, twin := range o.twins {
		im.tell(twin, nil, err)
	}
}

// start begins whatever can begin.
func (im *importer) start(ctx context.Context) error {
	for len(im.startable) > 0 && im.running < im.opts.Jobs && im.held < maxHeld {
		o := im.startable[0]
		im.startable = im.startable[1:]
		if o.state != waiting {
			continue // it has failed meanwhile
		}
		if im.tmp == nil {
			tmp, err := im.s.newTempDir(ctx)
			if err != nil {
				return err
			}
			im.tmp = tmp
		}
		im.fetch(ctx, o)
	}
	if im.due() {
		im.register(ctx)
	}
	return nil
}

// due tells whether what is ready is to be registered now. A transaction writes as many
// pages for a few objects as for many, so they wait for each other, but not long.
func (im *importer) due() bool {
	return !im.writing && len(im.ready) > 0 &&
		(im.running == 0 || len(im.ready) >= goodTransaction || time.Since(im.readySince) >= readyAge)
}

// wait waits for something to happen.
func (im *importer) wait(ctx context.Context) error {
	var again, due <-chan time.Time
	if len(im.elsewhere) > 0 {
		im.pause = min(max(2*im.pause, time.Millisecond), 100*time.Millisecond)
		timer := time.NewTimer(im.pause)
		defer timer.Stop()
		again = timer.C
	}
	if len(im.ready) > 0 && !im.writing {
		timer := time.NewTimer(time.Until(im.readySince.Add(readyAge)))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case tell := <-im.events:
		tell()
		return nil
	case <-due:
		return nil // start looks
	case <-again:
		return im.askAgain(ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// askAgain looks at the objects that others make.
func (im *importer) askAgain(ctx context.Context) error {
	list := im.elsewhere
	im.elsewhere = nil
	valid, err := im.nowValid(ctx, list)
	if err != nil {
		return err
	}
	for _, o := range list {
		switch {
		case o.state != elsewhere: // it has failed meanwhile
		case valid.Has(o.imp.Path):
			im.arrived(o, nil)
		default:
			o.state = waiting
			im.startable = append(im.startable, o)
		}
	}
	return nil
}

// nowValid tells which objects have become valid. What a lower store gains meanwhile may
// as well be imported, so only the database is asked.
func (im *importer) nowValid(ctx context.Context, list []*object) (storepath.Set, error) {
	if im.opts.Repair {
		return nil, nil
	}
	paths := make([]storepath.Path, len(list))
	for i, o := range list {
		paths[i] = o.imp.Path
	}
	valid, err := im.s.db.ValidPaths(ctx, paths)
	return storepath.NewSet(valid...), err
}

// tellWaiting says once that a lock is not to be had.
func (im *importer) tellWaiting(ctx context.Context) {
	if !im.toldWait {
		activity.Logf(ctx, activity.Info, "waiting for locks or build slots...")
		im.toldWait = true
	}
}
