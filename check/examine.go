package check

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/internal/mount"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/storepath"
)

// maxRounds bounds how often a repair is followed by another look: what is mended may
// show more, and of what is too much for memory only a part is mended at a time.
const maxRounds = 1000

// Run checks a target. The error says that nothing could be looked at, or that ctx
// ended; the report has what was found by then.
func Run(ctx context.Context, t Target, o Options) (*Report, error) {
	x, err := newExamination(ctx, t, o)
	if err != nil {
		return nil, err
	}
	activity.Logf(ctx, activity.Info, "reading the Nix store...")
	for round := range maxRounds {
		x.beginRound(round)
		err := x.examine(ctx, o.Contents && round == 0)
		mended := false
		if err == nil && (o.Repair || o.Forget) {
			mended, err = x.repair(ctx)
		}
		if err != nil || !mended {
			return x.finish(), err
		}
	}
	return x.finish(), nil
}

// examination is one check.
type examination struct {
	Target
	opts     Options
	classes  []*Class
	selected []bool // layers
	mounted  bool   // the layers show at RealDir as they should
	marks    bool   // marks of OverlayFS can be seen
	lock     *flock.Lock
	report   *Report

	temporary []*temporaryRoots // of the layers, as they were last read
	kept      storepath.Set     // see keptFile

	mu     sync.Mutex
	round  int
	seen   map[findingKey]*Finding
	tally  map[Code]*tally
	errors map[string]bool
}

type findingKey struct {
	code  Code
	layer int
	path  string
}

func (f *Finding) key() findingKey {
	return findingKey{f.Code, f.layer, f.Path + "\x00" + f.Detail}
}

// tally counts a class. What is left is what the last look at it found, less what was
// mended since.
type tally struct {
	left, mended int
	kept         int // in memory
}

func newExamination(ctx context.Context, t Target, o Options) (*examination, error) {
	if o.Keep == 0 {
		o.Keep = DefaultKeep
	}
	x := &examination{
		Target: t, opts: o, classes: Classes(),
		seen: map[findingKey]*Finding{}, tally: map[Code]*tally{}, errors: map[string]bool{},
		report: &Report{Started: time.Now(), Contents: o.Contents},
	}
	x.report.Since = x.report.Started
	var err error
	if x.selected, err = selectLayers(t.Layers, o.Layers); err != nil {
		return nil, err
	}
	for i, l := range t.Layers {
		x.report.Layers = append(x.report.Layers, LayerReport{Name: l.Name, Dir: l.Dir, Checked: x.selected[i] && !l.Gone})
	}
	x.look()
	return x, ctx.Err()
}

// look finds out what can be seen from here.
func (x *examination) look() {
	x.mounted = len(x.Layers) == 1
	if x.Mount != nil {
		x.mounted = overlayfs.Verify(x.RealDir, *x.Mount) == nil
	}
	// Marks of a mount in a user namespace are attributes that everybody sees, those of
	// another one only root does.
	initial, err := mount.InitialUserNamespace()
	x.marks = err == nil && (!initial || os.Geteuid() == 0)
}

// holdMount keeps anybody from unmounting what is looked at, which would look like the
// loss of everything.
func (x *examination) holdMount() (release func()) {
	if x.Mount == nil {
		return func() {}
	}
	d, err := os.OpenFile(x.RealDir, unix.O_PATH|unix.O_DIRECTORY, 0)
	x.look() // what is held is what is checked
	if err != nil {
		return func() {}
	}
	return func() { _ = d.Close() } // nothing was written to it
}

// selectLayers tells which layers are meant by names or numbers.
func selectLayers(layers []Layer, wanted []string) ([]bool, error) {
	selected := make([]bool, len(layers))
	for i := range selected {
		selected[i] = wanted == nil
	}
	for _, w := range wanted {
		found := false
		for i, l := range layers {
			if w == l.Name || w == strconv.Itoa(i) || strings.HasPrefix(l.Name, w+" (") {
				selected[i], found = true, true
			}
		}
		if !found {
			names := make([]string, len(layers))
			for i, l := range layers {
				names[i] = fmt.Sprintf("%d: %s", i, l.Name)
			}
			return nil, &LayerError{Layer: w, Have: names}
		}
	}
	return selected, nil
}

// LayerError says that a layer was asked for that there is not.
type LayerError struct {
	Layer string
	Have  []string
}

func (e *LayerError) Error() string {
	return fmt.Sprintf("there is no layer '%s'; the layers are %s", e.Layer, strings.Join(e.Have, ", "))
}

// listed tells whether all names of a layer are gone through.
func (x *examination) listed(i int) bool {
	return i < len(x.Layers) && x.selected[i] && x.Layers[i].DB != nil
}

func (x *examination) beginRound(round int) {
	x.round = round
	for code, t := range x.tally {
		if !x.class(code).ofContents() {
			t.left = 0 // it is looked at again
		}
		if t.kept >= x.opts.Keep {
			x.makeRoom(code)
			t.kept = 0
		}
	}
	for i := range x.report.Layers {
		x.report.Layers[i].Rows, x.report.Layers[i].Entries = 0, 0
	}
}

// makeRoom forgets what was mended of a class, for what is still to be.
func (x *examination) makeRoom(code Code) {
	x.report.Findings = slices.DeleteFunc(x.report.Findings, func(f *Finding) bool {
		done := f.Code == code && (f.Outcome == Repaired || f.Outcome == Dropped)
		if done {
			delete(x.seen, f.key())
		}
		return done
	})
}

// examine looks at everything, contents only if wanted. The error is the end of ctx.
func (x *examination) examine(ctx context.Context, contents bool) error {
	err := x.locked(ctx, func() error {
		defer x.holdMount()()
		x.readTemporaryRoots()
		var err error
		if x.kept, err = x.readKept(); err != nil {
			x.couldNotTell(ctx, err)
		}
		if x.round == 0 {
			activity.Logf(ctx, activity.Info, "checking path existence...")
		}
		// The databases are read by one processor while names are compared by another.
		var wholes sync.WaitGroup
		wholes.Go(func() { x.lookAtWholes(ctx) })
		err = x.eachLine(ctx, x.lookAtLines)
		wholes.Wait()
		return err
	})
	if err == nil && contents {
		err = x.contents(ctx)
	}
	return err
}

// lookAtWholes asks those classes that are about one thing as a whole, and the sources.
func (x *examination) lookAtWholes(ctx context.Context) {
	for _, c := range x.classes {
		if c.whole != nil && ctx.Err() == nil {
			if err := c.whole(ctx, x, func(f *Finding) { x.found(ctx, c, f) }); err != nil {
				x.couldNotTell(ctx, err)
			}
		}
	}
	for _, source := range x.More {
		if ctx.Err() != nil {
			return
		}
		err := source(ctx, func(f *Finding) {
			if c := x.class(f.Code); c != nil {
				x.found(ctx, c, f)
			}
		})
		if err != nil {
			x.couldNotTell(ctx, err)
		}
	}
}

// lookAtLines asks all classes about lines, and again about those that something seems
// wrong with: the rows and the names of a line were read at different times.
func (x *examination) lookAtLines(ctx context.Context, lines []line) error {
	found := x.judge(ctx, lines)
	var names []string
	for i, list := range found {
		if len(list) > 0 {
			names = append(names, lines[i].name)
		}
	}
	if len(names) == 0 {
		return context.Cause(ctx)
	}
	x.waitForRemovals(ctx)
	// In this order: what was there before is a temporary root now, or has a row by the
	// time the rows are read, unless nobody is making it.
	x.readTemporaryRoots()
	for _, list := range x.judge(ctx, x.linesOf(ctx, names)) {
		for _, f := range list {
			x.found(ctx, x.class(f.Code), f)
		}
	}
	return context.Cause(ctx)
}

// judge gives what the classes say of each line.
func (x *examination) judge(ctx context.Context, lines []line) [][]*Finding {
	found := make([][]*Finding, len(lines))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	const part = 64
	for from := 0; from < len(lines); from += part {
		group.Go(func() error {
			for i := from; i < min(from+part, len(lines)); i++ {
				l := &lines[i]
				for _, c := range x.classes {
					if c.line != nil {
						c.line(x, l, func(f *Finding) {
							f.Code, f.name, f.path = c.Code, l.name, l.path
							if f.Path == "" {
								f.Path = x.place(f.layer, l)
							}
							found[i] = append(found[i], f)
						})
					}
				}
			}
			return nil
		})
	}
	_ = group.Wait() // none of them fails
	return found
}

// place is how a line's name is written: as a store path, or as a file of a layer.
func (x *examination) place(layer int, l *line) string {
	if l.kind == objectName {
		return x.Dir.Print(l.path)
	}
	return visible(filepath.Join(x.Layers[layer].Dir, l.name))
}

// found notes a finding of a class.
func (x *examination) found(ctx context.Context, c *Class, f *Finding) {
	x.mu.Lock()
	defer x.mu.Unlock()
	f.Code = c.Code
	if f.Layer == "" && f.layer >= 0 && len(x.Layers) > 1 {
		f.Layer = x.Layers[f.layer].Name
	}
	t := x.tally[c.Code]
	if t == nil {
		t = &tally{}
		x.tally[c.Code] = t
	}
	t.left++
	if old := x.seen[f.key()]; old != nil {
		if old.Outcome == Repaired || old.Outcome == Dropped {
			old.Outcome, old.Err = Failed, errors.New("it is there again after the repair")
			t.mended--
			x.tell(ctx, old)
		}
		return
	}
	f.Outcome = Found
	if t.kept < x.opts.Keep {
		t.kept++
		x.seen[f.key()] = f
		x.report.Findings = append(x.report.Findings, f)
	}
	x.tell(ctx, f)
}

// tell says what was found, or became of it. x.mu is held.
func (x *examination) tell(ctx context.Context, f *Finding) {
	if x.opts.Found != nil {
		x.opts.Found(ctx, f)
	}
}

// couldNotTell notes what could not be looked at, once.
func (x *examination) couldNotTell(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	const most = 1000
	if text := err.Error(); !x.errors[text] && len(x.errors) < most {
		x.errors[text] = true
		x.report.Errors = append(x.report.Errors, err)
	}
}

// class gives the class with a code, nil if there is none.
func (x *examination) class(code Code) *Class {
	for _, c := range x.classes {
		if c.Code == code {
			return c
		}
	}
	return nil
}

// finish sums up.
func (x *examination) finish() *Report {
	r := x.report
	r.Took = time.Since(r.Started)
	for _, c := range x.classes {
		if t := x.tally[c.Code]; t != nil && (t.left > 0 || t.mended > 0) {
			r.Counts = append(r.Counts, Count{Class: c, Found: t.left + t.mended, Repaired: t.mended})
		}
	}
	return r
}

// locked does f while no garbage is collected, as Nix does.
func (x *examination) locked(ctx context.Context, f func() error) error {
	if x.ReadOnly || x.lock != nil {
		return f()
	}
	lock, err := x.openCollectorLock()
	if err != nil {
		x.couldNotTell(ctx, err)
	}
	if lock == nil {
		return f()
	}
	defer func() { _ = lock.Close() }()
	if err := lock.Lock(ctx, flock.Shared, func() {
		activity.Logf(ctx, activity.Info, "waiting for the big garbage collector lock...")
	}); err != nil {
		return err
	}
	x.lock = lock
	defer func() { x.lock = nil }()
	return f()
}

// lockedBeside is locked for one of several goroutines.
func (x *examination) lockedBeside(ctx context.Context, f func() error) error {
	beside := &examination{Target: x.Target, errors: map[string]bool{}, report: &Report{}}
	return beside.locked(ctx, f)
}

// openCollectorLock opens Nix's gc.lock. One that is broken is of no use, which is a class
// of its own.
func (x *examination) openCollectorLock() (*flock.Lock, error) {
	state, err := os.Stat(x.StateDir)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(x.StateDir, collectorLock)
	if lockFault(path, state) != "" {
		return nil, nil //nolint:nilnil // see above
	}
	return flock.Open(path)
}
