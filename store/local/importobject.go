package local

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// objectState is how far an object is.
type objectState uint8

const (
	undecided   objectState = iota // about its first offer
	waiting                        // for what it refers to, or a slot
	elsewhere                      // somebody else has it locked
	fetching                       // locked by us, or about to be
	complete                       // unpacked and verified
	ready                          // and all that it refers to is, too
	registering                    // in the transaction that is under way
	arrived                        // valid
	failed
	deferred // until another run
)

// certain tells that the outcome has been told.
func (s objectState) certain() bool { return s == arrived || s == failed }

// object is one import. Its fields belong to the importer.
type object struct {
	index  int
	imp    *store.Import
	offers []store.Offer // that are left, the first is the one that counts
	asked  bool          // for more, without success
	errs   []error       // of the offers that failed
	twins  []*object     // imports of the same path

	// The rest is of one run.
	state     objectState
	covered   bool      // locked by us, or valid: what refers to it may be locked
	passed    bool      // ready, or further
	refs      []*object // that the first offer refers to
	referrers []*object
	waits     int // of refs that are not covered
	needs     int // of refs that are not ready, or further
	lock      *flock.Lock
	path      string // where it was unpacked
	cancel    context.CancelFunc
}

func newObject(i int, m *store.Import) *object {
	return &object{index: i, imp: m, offers: m.Offers}
}

// prepare looks what is valid, and puts the others in line.
func (im *importer) prepare(ctx context.Context, objects []*object) error {
	var paths []storepath.Path
	for _, o := range objects {
		o.state, o.covered, o.passed, o.refs, o.referrers, o.path = undecided, false, false, nil, nil, ""
		paths = append(paths, o.imp.Path)
		if first := im.byPath[o.imp.Path]; first != nil {
			first.twins = append(first.twins, o)
			o.state = arrived // in the shape of the first
			continue
		}
		im.byPath[o.imp.Path] = o
		im.open++
		if len(o.offers) > 0 && o.offers[0].Info != nil {
			paths = append(paths, o.offers[0].Info.References...)
		}
	}
	paths = storepath.SortUnique(paths)
	// What is referred to has to stay too until it is referred to.
	if err := im.opts.Roots.Add(ctx, paths); err != nil {
		return err
	}
	valid, err := im.s.ValidPaths(ctx, paths)
	if err != nil {
		return err
	}
	im.valid = storepath.NewSet(valid...)
	var adopt []storepath.Path
	for _, o := range objects {
		if o.state == undecided && !im.opts.Repair && im.valid.Has(o.imp.Path) {
			adopt = append(adopt, o.imp.Path)
			im.arrived(o, nil)
		}
	}
	if err := im.s.Adopt(ctx, adopt); err != nil {
		return err
	}
	for _, o := range objects {
		if o.state == undecided {
			if err := im.next(ctx, o); err != nil {
				return err
			}
		}
	}
	return nil
}

// next puts an object in line that has no offer yet, or whose offer has failed.
func (im *importer) next(ctx context.Context, o *object) error {
	o.disconnect()
	for ; len(o.offers) > 0; o.offers = o.offers[1:] {
		problem, err := im.examine(ctx, o, &o.offers[0])
		if err != nil {
			return err
		}
		if problem != nil {
			o.errs = append(o.errs, problem)
			continue
		}
		im.connect(o)
		switch {
		case slices.ContainsFunc(o.refs, func(r *object) bool { return r.state == deferred }):
			im.drop(o, deferred, nil)
		case o.lock == nil:
			o.state = waiting
			if o.waits == 0 {
				im.startable = append(im.startable, o)
			}
		case o.waits > 0: // we hold its lock and not those
			im.drop(o, deferred, nil)
		default:
			im.fetch(ctx, o)
		}
		return nil
	}
	if o.imp.More != nil && !o.asked && !errors.As(o.lastError(), new(*store.DependencyError)) {
		im.askMore(ctx, o)
		return nil
	}
	im.fail(o)
	return nil
}

// askMore asks for more offers.
func (im *importer) askMore(ctx context.Context, o *object) {
	o.state = fetching
	own, cancel := context.WithCancel(ctx)
	o.cancel = cancel
	im.running++
	err := o.lastError()
	go func() {
		offers := o.imp.More(own, err)
		im.events <- func() {
			im.running--
			o.cancel()
			if im.stopped(o) {
				return
			}
			o.state, o.offers, o.asked = undecided, offers, len(offers) == 0
			im.stop(im.next(ctx, o))
		}
	}()
}

func (o *object) lastError() error {
	if len(o.errs) == 0 {
		return nil
	}
	return o.errs[len(o.errs)-1]
}

// examine says what is wrong with an offer, before anything is fetched.
func (im *importer) examine(ctx context.Context, o *object, offer *store.Offer) (problem, err error) {
	dir := im.s.dir
	info := offer.Info
	if info == nil || info.Path != o.imp.Path {
		return fmt.Errorf("asked '%s' for '%s' but got something else", offer.From, dir.Print(o.imp.Path)), nil
	}
	if !offer.Trusted && !im.opts.NoCheckSigs && im.s.opts.RequireSigs && !im.s.trusted(info) {
		return &store.SignatureError{Path: dir.Print(info.Path)}, nil
	}
	if err := im.lookUp(ctx, info.References); err != nil {
		return nil, err
	}
	for _, r := range info.References {
		ref := im.byPath[r]
		switch {
		case ref == o || im.valid.Has(r):
		case im.lost.Has(r):
			return &store.DependencyError{Path: dir.Print(info.Path), On: dir.Print(r)}, nil
		case ref == nil:
			return &store.InvalidPathError{Path: dir.Print(r), By: dir.Print(info.Path)}, nil
		}
	}
	return nil, nil
}

// lookUp finds out what is valid of what has not been asked for yet.
func (im *importer) lookUp(ctx context.Context, refs []storepath.Path) error {
	var unknown []storepath.Path
	for _, r := range refs {
		if im.byPath[r] == nil && !im.valid.Has(r) {
			unknown = append(unknown, r)
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	if err := im.opts.Roots.Add(ctx, unknown); err != nil {
		return err
	}
	valid, err := im.s.ValidPaths(ctx, unknown)
	for _, p := range valid {
		im.valid.Add(p)
	}
	return err
}

// disconnect forgets what an object refers to.
func (o *object) disconnect() {
	for _, r := range o.refs {
		r.referrers = slices.DeleteFunc(r.referrers, func(x *object) bool { return x == o })
	}
	o.refs, o.waits, o.needs = nil, 0, 0
}

// connect notes what an object refers to by its first offer.
func (im *importer) connect(o *object) {
	for _, p := range o.offers[0].Info.References {
		r := im.byPath[p]
		if r == nil || r == o {
			continue
		}
		o.refs = append(o.refs, r)
		r.referrers = append(r.referrers, o)
		if !r.covered {
			o.waits++
		}
		if !r.passed {
			o.needs++
		}
	}
}

// cover lets what refers to an object be locked.
func (im *importer) cover(o *object) {
	if o.covered {
		return
	}
	o.covered = true
	for _, r := range o.referrers {
		if r.waits--; r.waits == 0 && r.state == waiting {
			im.startable = append(im.startable, r)
		}
	}
}

// pass lets what refers to an object be registered with it, or after it.
func (im *importer) pass(o *object) {
	if o.passed {
		return
	}
	o.passed = true
	for _, r := range o.referrers {
		if r.needs--; r.needs == 0 && r.state == complete {
			im.makeReady(r)
		}
	}
}

func (im *importer) makeReady(o *object) {
	o.state = ready
	if len(im.ready) == 0 {
		im.readySince = time.Now()
	}
	im.ready = append(im.ready, o)
	im.pass(o)
}

// arrived notes that an object is valid. from is where it came from, if it was us
// who fetched it.
func (im *importer) arrived(o *object, from *store.Offer) {
	im.unlock(o)
	o.state = arrived
	im.open--
	im.tell(o, from, nil)
	im.cover(o)
	im.pass(o)
}

// fail gives an object up for which there are no more offers.
func (im *importer) fail(o *object) {
	err := errors.Join(o.errs...)
	if err == nil {
		err = fmt.Errorf("nobody offers path '%s'", im.s.dir.Print(o.imp.Path))
	}
	var dependency *store.DependencyError
	if errors.As(o.lastError(), &dependency) {
		err = dependency
	} else {
		im.failed = append(im.failed, err)
	}
	im.drop(o, failed, err)
}

// drop takes an object out of this run, and what refers to it.
func (im *importer) drop(o *object, as objectState, err error) {
	before := o.state
	o.state = as
	im.open--
	if before == fetching && o.cancel != nil {
		o.cancel() // the lock is given up when that has ended
	} else {
		im.unlock(o)
	}
	if as == failed {
		im.lost.Add(o.imp.Path)
		im.tell(o, nil, err)
	} else {
		im.deferred = append(im.deferred, o)
	}
	for _, r := range o.referrers {
		im.dropReferrer(r, o, as)
	}
}

// dropReferrer takes an object out of which a reference was. It may have other offers
// that do without.
func (im *importer) dropReferrer(r, o *object, as objectState) {
	if r.state.certain() || r.state == deferred || r.state == undecided {
		return
	}
	if as == failed {
		dependency := &store.DependencyError{Path: im.s.dir.Print(r.imp.Path), On: im.s.dir.Print(o.imp.Path)}
		r.errs, r.offers = append(r.errs, dependency), r.offers[1:]
		if len(r.offers) == 0 {
			im.drop(r, failed, dependency)
			return
		}
	}
	im.drop(r, deferred, nil)
}

// breakCircle is called when objects wait for nothing but each other. It blames one
// that refers to itself by way of others.
func (im *importer) breakCircle(ctx context.Context) {
	var o *object
	for _, x := range im.byPath {
		if x.state == waiting && (o == nil || x.index < o.index) {
			o = x
		}
	}
	seen := map[*object]bool{}
	for o != nil && !seen[o] {
		seen[o] = true
		i := slices.IndexFunc(o.refs, func(r *object) bool { return !r.covered })
		if i < 0 {
			break
		}
		o = o.refs[i]
	}
	if o == nil {
		im.stop(errors.New("an import has come to a halt"))
		return
	}
	im.offerFailed(ctx, o, fmt.Errorf("cycle detected in the references of '%s'", im.s.dir.Print(o.imp.Path)))
}

// offerFailed goes on with the next offer.
func (im *importer) offerFailed(ctx context.Context, o *object, err error) {
	if ctx.Err() != nil {
		im.stop(context.Cause(ctx)) // that is why
		return
	}
	o.errs, o.offers = append(o.errs, err), o.offers[1:]
	im.stop(im.next(ctx, o))
}

// stop ends everything if there is an error.
func (im *importer) stop(err error) {
	if im.fatal == nil {
		im.fatal = err
	}
}
