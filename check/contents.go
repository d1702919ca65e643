package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// objectsAtOnce is how many objects are read at the same time: each keeps a reader and a
// hasher busy, and a disk is quicker when it is asked for more than one thing.
var objectsAtOnce = max(4, 2*runtime.GOMAXPROCS(0))

// object is the contents of one object.
type object struct {
	layer int // where it was found
	row   nixdb.Row
	path  string          // that was read
	info  *store.PathInfo // nil: nobody needs it
	read  hashed
	err   error
}

// hashed is what a tree turned out to be.
type hashed struct {
	hash nixhash.Hash
	size uint64
	// fault is the first thing that is wrong with its metadata, and where.
	fault, faultAt string
	faults         int
}

// hashObject reads a tree, and hands its NAR to also, if not nil.
func hashObject(ctx context.Context, path string, also io.Writer) (hashed, error) {
	return hashTree(ctx, path, also, nil)
}

func hashTree(ctx context.Context, path string, also io.Writer, owner *uint32) (h hashed, err error) {
	sum := nixhash.SHA256.New()
	n := &counter{to: sum}
	w := io.Writer(n)
	if also != nil {
		w = io.MultiWriter(n, also)
	}
	if owner == nil {
		err = nar.Dump(ctx, w, path)
	} else {
		err = nar.DumpInspected(ctx, w, path, func(at func() string, st *unix.Stat_t) {
			if why := nar.MetadataFault(st, *owner); why != "" {
				if h.faults++; h.faults == 1 {
					h.fault, h.faultAt = why, at()
				}
			}
		})
	}
	h.hash, h.size = nixhash.Sum(nixhash.SHA256, sum), n.n
	return h, err
}

// counter counts what passes.
type counter struct {
	to io.Writer
	n  uint64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.n += uint64(n) //nolint:gosec // not negative
	return n, err
}

// contents reads all objects of the layers that are checked, several at once. The error
// is the end of ctx; then the journal says how far it came.
func (x *examination) contents(ctx context.Context) error {
	if err := x.checkLinks(ctx); err != nil {
		return err
	}
	activity.Logf(ctx, activity.Info, "checking store hashes...")
	r := &reading{examination: x, journal: x.openJournal(ctx), progress: x.newProgress(ctx)}
	defer r.progress.stop()
	for i := range x.Layers {
		if !x.listed(i) {
			continue
		}
		if err := r.layer(ctx, i); err != nil {
			r.journal.flush(ctx)
			return err
		}
	}
	r.journal.remove(ctx)
	return nil
}

// reading is the part of a check that reads contents.
type reading struct {
	*examination
	journal  *journal
	progress *progress
}

// layer reads the objects of one layer in the order of their paths. The error is the end
// of ctx.
func (r *reading) layer(ctx context.Context, i int) error {
	name, owner := r.Layers[i].Name, r.ownerOf(i)
	after, before, done := r.journal.position(name)
	r.report.Layers[i].Skipped = int64(before.objects) //nolint:gosec // a count
	r.progress.done(before)
	type job struct {
		n   int
		row nixdb.Row
	}
	jobs := make(chan job)
	var marks watermark
	var workers sync.WaitGroup
	for range objectsAtOnce {
		workers.Go(func() {
			for w := range jobs {
				if !r.object(ctx, i, w.row, owner) {
					continue
				}
				if w.n < 0 {
					continue // one that was looked at again
				}
				r.progress.done(amount{1, w.row.NarSize})
				marks.finish(w.n, w.row, func(last storepath.Path, more amount) { r.journal.reached(ctx, name, last, more) })
			}
		})
	}
	for _, row := range r.suspects(ctx, i) {
		jobs <- job{-1, row}
	}
	n := 0
	if !done {
		for rows, err := range r.Layers[i].DB.SortedRows(ctx, after) {
			if err != nil {
				r.couldNotTell(ctx, fmt.Errorf("%s: %w", name, err))
				break
			}
			for _, row := range rows {
				if ctx.Err() == nil {
					jobs <- job{n, row}
					n++
				}
			}
		}
	}
	close(jobs)
	workers.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	r.journal.finished(ctx, name)
	return nil
}

// suspects gives the rows of what an earlier run found wrong.
func (r *reading) suspects(ctx context.Context, i int) []nixdb.Row {
	rows, err := r.Layers[i].lookUp(ctx, r.journal.suspects(r.Layers[i].Name))
	if err != nil {
		r.couldNotTell(ctx, fmt.Errorf("%s: %w", r.Layers[i].Name, err))
	}
	return slices.DeleteFunc(rows, func(row nixdb.Row) bool { return row.ID == 0 })
}

// ownerOf is who should own the objects of a layer, nil if that is not for us to say: how
// the objects of a lower come to be on a disk is its owner's business.
func (x *examination) ownerOf(layer int) *uint32 {
	var st unix.Stat_t
	if layer != 0 || unix.Stat(x.Layers[0].Dir, &st) != nil {
		return nil
	}
	return &st.Uid
}

// object reads an object and asks all classes about it, after another look if something
// seems wrong. It is false if that was not done to the end.
func (r *reading) object(ctx context.Context, layer int, row nixdb.Row, owner *uint32) bool {
	o := &object{layer: layer, row: row}
	if !r.locate(ctx, o) {
		owner = nil
	}
	if o.path == "" {
		return ctx.Err() == nil
	}
	if row.Signed && len(r.TrustedKeys) > 0 {
		// That it cannot be had is a matter of the database.
		o.info, _ = r.Layers[layer].info(ctx, row.Path)
	}
	activity.Logf(ctx, activity.Talkative, "checking contents of '%s'", r.Dir.Print(row.Path))
	o.read, o.err = hashTree(ctx, o.path, nil, owner)
	if ctx.Err() != nil {
		return false
	}
	count := &r.report.Layers[layer]
	atomic.AddInt64(&count.Objects, 1)
	atomic.AddInt64(&count.Bytes, int64(o.read.size)) //nolint:gosec // a size of files
	if len(r.judgeObject(o)) == 0 {
		return true
	}
	if err := r.lookAgain(ctx, layer, o, owner); err != nil {
		r.couldNotTell(ctx, err)
	}
	return ctx.Err() == nil
}

// lookAgain reads an object once more, while no garbage is collected.
func (r *reading) lookAgain(ctx context.Context, layer int, o *object, owner *uint32) error {
	return r.lockedBeside(ctx, func() error {
		rows, err := r.Layers[layer].lookUp(ctx, []storepath.Path{o.row.Path})
		if err != nil || rows[0].ID == 0 {
			return err // not valid any more
		}
		o.row, o.layer = rows[0], layer
		if r.locate(ctx, o); o.path == "" {
			return nil
		}
		if o.read, o.err = hashTree(ctx, o.path, nil, owner); ctx.Err() != nil {
			return nil
		}
		for _, f := range r.judgeObject(o) {
			r.journal.suspect(r.Layers[layer].Name, o.row.Path)
			r.found(ctx, r.class(f.Code), f)
		}
		return nil
	})
}

// locate finds out where the object of a row is to be read, "" if nowhere: it is missing,
// which is a matter of names, or is read with the layer that it lies in. It tells
// whether it is the layer's own.
func (x *examination) locate(ctx context.Context, o *object) (own bool) {
	o.path = ""
	mine := x.layerFile(o.layer, o.row.Path)
	switch typ, err := typeAt(mine); {
	case err != nil:
		o.path = mine
		return true
	case (presence{typ: typ}).object():
		if o.path = mine; o.layer == 0 {
			o.path = x.realPath(o.row.Path)
		}
		return true
	}
	if o.layer != 0 {
		return false
	}
	for i := 1; i < len(x.Layers); i++ {
		if x.Layers[i].Gone {
			continue
		}
		file := x.layerFile(i, o.row.Path)
		if typ, err := typeAt(file); err != nil || (presence{typ: typ}).object() {
			if x.listed(i) && x.hasRow(ctx, i, o.row.Path) {
				return false // its turn comes
			}
			if o.path = file; x.mounted {
				o.path = x.realPath(o.row.Path)
			}
			o.layer = i
			return false
		}
	}
	return false
}

func (x *examination) hasRow(ctx context.Context, layer int, p storepath.Path) bool {
	rows, err := x.Layers[layer].lookUp(ctx, []storepath.Path{p})
	return err == nil && rows[0].ID != 0
}

// judgeObject gives what the classes say of an object.
func (x *examination) judgeObject(o *object) (found []*Finding) {
	for _, c := range x.classes {
		if c.object != nil {
			c.object(x, o, func(f *Finding) {
				f.Code, f.layer, f.path, f.name = c.Code, o.layer, o.row.Path, o.row.Path.Base()
				f.Path = x.Dir.Print(o.row.Path)
				found = append(found, f)
			})
		}
	}
	return found
}

func findModified(x *examination, o *object, say func(*Finding)) {
	if detail := o.modified(); detail != "" && !x.covered(o) {
		say(&Finding{Detail: detail + x.forOwner(o), nix: fmt.Sprintf("path '%s' was modified! %s", x.Dir.Print(o.row.Path), detail)})
	}
}

// forOwner adds to a finding about an object that it is not for us to mend, if it is not.
func (x *examination) forOwner(o *object) string {
	if o.layer == 0 {
		return ""
	}
	if rows, err := x.Layers[0].lookUp(context.Background(), []storepath.Path{o.row.Path}); err != nil || rows[0].ID != 0 {
		return ""
	}
	return "; " + leftToOwner
}

// modified says how the contents differ from what was registered, "" if they do not.
func (o *object) modified() string {
	if o.err != nil || o.row.NarHash.IsZero() || o.read.hash == o.row.NarHash {
		return ""
	}
	return fmt.Sprintf("expected hash '%s', got '%s'", hashText(o.row.NarHash), hashText(o.read.hash))
}

// findUnreadable finds what cannot be read although it is there. That we may not read it
// is no damage.
func findUnreadable(x *examination, o *object, say func(*Finding)) {
	switch {
	case !o.unreadable():
	case errors.Is(o.err, fs.ErrPermission):
		x.couldNotTell(context.Background(), o.err)
	case !x.covered(o):
		say(&Finding{Detail: o.err.Error() + x.forOwner(o), nix: o.err.Error()})
	}
}

// unreadable tells whether it could not be read; that it is not there is a matter of names.
func (o *object) unreadable() bool {
	return o.err != nil && !(errors.Is(o.err, fs.ErrNotExist) && missing(o.path))
}

// covered tells whether an object is that of a lower, and nobody sees it as the upper has its own.
func (x *examination) covered(o *object) bool {
	if o.layer == 0 {
		return false
	}
	typ, err := typeAt(x.layerFile(0, o.row.Path))
	return err == nil && (presence{typ: typ}).object() && x.hasRow(context.Background(), 0, o.row.Path)
}

// findCoveredModified is findModified, and findUnreadable, for what nobody sees here.
func findCoveredModified(x *examination, o *object, say func(*Finding)) {
	switch detail := o.modified(); {
	case detail == "" && !o.unreadable(), errors.Is(o.err, fs.ErrPermission), !x.covered(o):
	case o.err != nil:
		say(&Finding{Detail: o.err.Error()})
	default:
		say(&Finding{Detail: detail})
	}
}

func missing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

func findWrongSize(x *examination, o *object, say func(*Finding)) {
	if o.err == nil && o.read.hash == o.row.NarHash && o.read.size != o.row.NarSize {
		say(&Finding{
			Detail: fmt.Sprintf("%d is registered, it is %d", o.row.NarSize, o.read.size), data: o.read.size,
			nix: fmt.Sprintf("updating size field on '%s' to %d", x.Dir.Print(o.row.Path), o.read.size),
		})
	}
}

func findWrongMetadata(_ *examination, o *object, say func(*Finding)) {
	if o.read.faults == 0 {
		return
	}
	detail := fmt.Sprintf("'%s': %s", visible(o.read.faultAt), o.read.fault)
	if o.read.faults > 1 {
		detail += fmt.Sprintf(" (and %d more)", o.read.faults-1)
	}
	say(&Finding{Detail: detail})
}

// mendSize registers the right size.
func mendSize(ctx context.Context, r *repairs, f *Finding) error {
	db, err := r.own(f)
	if err != nil {
		return err
	}
	size, ok := f.data.(uint64)
	if !ok {
		return errNothingKnown
	}
	info, err := r.Layers[0].info(ctx, f.path)
	if err != nil || info == nil {
		return err
	}
	fixed := info.Clone()
	fixed.NarSize = size
	return db.Update(ctx, []*store.PathInfo{fixed})
}

func mendMetadata(ctx context.Context, r *repairs, f *Finding) error {
	if f.layer != 0 {
		return errOfLower
	}
	return nar.Canonicalise(ctx, filepath.Clean(r.realPath(f.path)), nar.CanonicaliseOptions{})
}
