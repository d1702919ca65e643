package nixdb

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/nixdb/btree"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// A bulkLoad fills an empty database. It makes the pages of all tables and indices itself, each once and
// full, in an [image], where SQL would visit the pages of seven trees for each path.
//
// Paths are rows in the order in which they come. A path may be referred to before it comes: until the end
// references name paths by the order in which they were mentioned.
type bulkLoad struct {
	db    *DB
	image *image
	base  int64 // the row numbers of paths are greater

	hash     hashKey
	mentions mentionTable
	rows     mappedInts // of paths by mention, 0 for those that have not come
	n        uint32     // paths that have come
	promised map[storepath.Path]storepath.Path

	from    mappedInts // where the references of each row begin in to
	to      mappedInts // mentions, and rows in the end
	forward bool       // some path came before one that it refers to

	again []Registration // of paths that had come already

	paths       *btree.TableWriter
	byPath      pathSort
	outputs     *btree.TableWriter
	outputsByID *btree.IndexWriter
	byOutput    pathSort
	numOutputs  int64
	record      btree.RecordWriter
	now         int64
}

// longestDir is how long the directory of a store may be so that its paths fit into an index page.
const longestDir = 256

// beginImage begins a load that fills the database of a connection, if it is empty and nobody else has it
// open: the error is errNoImage otherwise. It keeps others from opening it until endImage.
func (db *DB) beginImage(c *conn) (b *bulkLoad, err error) {
	if db.o.NoWAL || len(db.o.Dir) > longestDir || c.h.lock == nil {
		return nil, errNoImage
	}
	alone, err := c.h.lock.Try(flock.Exclusive)
	if err != nil || !alone {
		return nil, errors.Join(err, errNoImage)
	}
	b = &bulkLoad{db: db, hash: newHashKey(), promised: map[storepath.Path]storepath.Path{}, now: time.Now().Unix()}
	if err := c.query("select seq from sqlite_sequence where name = 'ValidPaths'", nil,
		func(s *sqlite.Stmt) error { b.base = s.ColumnInt64(0); return nil }); err != nil {
		return nil, err
	}
	if b.image, err = db.newImage(c); err != nil {
		return nil, err
	}
	w, roots := b.image.writer, &b.image.roots
	b.paths, b.outputs, b.outputsByID = w.Table(roots.paths), w.Table(roots.outputs), w.Index(roots.outputsIndex)
	b.byPath = pathSort{dir: db.dir, limit: pathSortBytes}
	b.byOutput = b.byPath
	return b, nil
}

// endImage lets others in. b may be nil.
func (c *conn) endImage(ctx context.Context, b *bulkLoad) error {
	if b != nil {
		b.forget()
		b.from.free()
		b.to.free()
		b.image.close()
		b.byPath.close()
		b.byOutput.close()
	}
	return c.h.lock.Lock(context.WithoutCancel(ctx), flock.Shared, nil)
}

// add takes registrations.
func (b *bulkLoad) add(ctx context.Context, regs []Registration) error {
	for i := range regs {
		if err := interrupted(ctx, i); err != nil {
			return err
		}
		if err := b.addPath(&regs[i]); err != nil {
			return err
		}
	}
	return nil
}

func (b *bulkLoad) addPath(r *Registration) error {
	info := r.Info
	if err := b.db.checkHash(info); err != nil {
		return err
	}
	mention, known := b.mention(info.Path)
	if known && b.rows.all[mention] != 0 {
		b.again = append(b.again, *r)
		return nil
	}
	if err := b.db.checkAddress(info); err != nil {
		return err
	}
	if known {
		delete(b.promised, info.Path)
	}
	if b.n == 1<<32-1 {
		return errors.New("too many paths")
	}
	b.n++
	b.rows.all[mention] = b.n
	id := b.base + int64(b.n)
	b.row(info)
	if err := b.paths.Row(id, b.record.Record()); err != nil {
		return err
	}
	if err := b.byPath.add(info.Path.Base(), id); err != nil {
		return err
	}
	b.addRefs(info)
	return b.addOutputs(id, r.Outputs)
}

// row makes the row of a path, as pathRow.bind does it.
func (b *bulkLoad) row(info *store.PathInfo) {
	w, dir := &b.record, string(b.db.o.Dir)
	text := func(s string) {
		if s == "" {
			w.Null()
			return
		}
		w.Text(s)
	}
	w.Reset()
	w.Null() // the number of the row
	w.Text(dir, "/", info.Path.Base())
	w.Text(info.NarHash.Text(nixhash.Base16))
	if info.Registered == 0 {
		w.Int(b.now)
	} else {
		w.Int(info.Registered)
	}
	if info.Deriver.IsZero() {
		w.Null()
	} else {
		w.Text(dir, "/", info.Deriver.Base())
	}
	if info.NarSize == 0 {
		w.Null()
	} else {
		w.Int(int64(info.NarSize)) //nolint:gosec // SQLite has no greater numbers
	}
	if info.Ultimate {
		w.Int(1)
	} else {
		w.Null()
	}
	text(printSignatures(info.Signatures))
	text(info.CA.String())
}

func (b *bulkLoad) addRefs(info *store.PathInfo) {
	b.from.add(uint32(b.to.n)) //nolint:gosec // it takes 16 GB to get there
	for _, ref := range info.References {
		mention, known := b.mention(ref)
		if !known {
			b.promised[ref] = info.Path
		}
		b.forward = b.forward || b.rows.all[mention] == 0
		b.to.add(mention)
	}
}

func (b *bulkLoad) addOutputs(drv int64, outputs map[string]storepath.Path) error {
	w, dir := &b.record, string(b.db.o.Dir)
	for _, name := range slices.Sorted(maps.Keys(outputs)) {
		p := outputs[name]
		if p.IsZero() {
			continue
		}
		b.numOutputs++
		w.Reset()
		w.Int(drv)
		w.Text(name)
		w.Text(dir, "/", p.Base())
		if err := b.outputs.Row(b.numOutputs, w.Record()); err != nil {
			return err
		}
		w.Reset()
		w.Int(drv)
		w.Text(name)
		w.Int(b.numOutputs)
		if err := b.outputsByID.Entry(w.Record()); err != nil {
			return err
		}
		if err := b.byOutput.add(p.Base(), b.numOutputs); err != nil {
			return err
		}
	}
	return nil
}

// mention gives the number of a path by the order in which paths are mentioned, and whether it was before.
func (b *bulkLoad) mention(p storepath.Path) (n uint32, known bool) {
	n, known = b.mentions.add(b.hash.hash(p), uint32(b.rows.n)) //nolint:gosec // it takes 70 GB to get there
	if !known {
		b.rows.add(0)
	}
	return n, known
}
