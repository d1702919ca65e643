package nixdb

import (
	"context"
	"slices"

	"zombiezen.com/go/sqlite"

	"github.com/strata-nix/strata/nixdb/btree"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// finish makes what can be made only when all paths are known, and puts all of it into the database of a
// connection.
func (b *bulkLoad) finish(ctx context.Context, c *conn) error {
	if len(b.promised) > 0 {
		return b.brokenPromise()
	}
	b.resolve()
	for _, make := range []func() error{b.paths.Finish, b.pathIndex, b.outputs.Finish, b.outputsByID.Finish, b.outputPathIndex,
		b.refsTable, b.refsIndex, b.referrerIndex, b.referenceIndex} {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := make(); err != nil {
			return err
		}
	}
	done, err := b.image.open()
	if err != nil {
		return err
	}
	defer func() { _ = done.Close() }() // nothing of it is needed any more
	if err := b.check(ctx, done); err != nil {
		return err
	}
	return c.replace(ctx, done)
}

// brokenPromise names the first of the paths that were not registered.
func (b *bulkLoad) brokenPromise() error {
	var first storepath.Path
	for p := range b.promised {
		if first.IsZero() || storepath.Compare(p, first) < 0 {
			first = p
		}
	}
	return &store.InvalidPathError{Path: b.db.o.Dir.Print(first), By: b.db.o.Dir.Print(b.promised[first])}
}

// resolve makes rows of mentions, in the order of their numbers, and forgets mentions.
func (b *bulkLoad) resolve() {
	kept := 0
	for row := range b.from.n {
		refs := b.refsOf(row)
		for i, mention := range refs {
			refs[i] = b.rows.all[mention]
		}
		slices.Sort(refs)
		b.from.all[row] = uint32(kept) //nolint:gosec // not more than it was
		kept += copy(b.to.all[kept:], slices.Compact(refs))
	}
	b.to.n = kept
	b.forget()
}

// forget gives the memory of mentions back.
func (b *bulkLoad) forget() {
	b.mentions.free()
	b.rows.free()
	b.promised = nil
}

func (b *bulkLoad) refsOf(row int) []uint32 {
	end := b.to.n
	if row+1 < b.from.n {
		end = int(b.from.all[row+1])
	}
	return b.to.all[b.from.all[row]:end]
}

func (b *bulkLoad) pathIndex() error {
	return b.indexOfPaths(b.image.writer.Index(b.image.roots.pathIndex), &b.byPath)
}

func (b *bulkLoad) outputPathIndex() error {
	return b.indexOfPaths(b.image.writer.Index(b.image.roots.outputPathIndex), &b.byOutput)
}

func (b *bulkLoad) indexOfPaths(x *btree.IndexWriter, from *pathSort) error {
	dir, w := string(b.db.o.Dir), &b.record
	for p, err := range from.sorted() {
		if err != nil {
			return err
		}
		w.Reset()
		w.Text(dir, "/", string(p.path))
		w.Int(p.id)
		if err := x.Entry(w.Record()); err != nil {
			return err
		}
	}
	from.text, from.refs = nil, nil
	return x.Finish()
}

// eachRef goes through all references in the order of the table, whose rows have numbers from 1 on. The
// first column that f gives is that of the referrer.
func (b *bulkLoad) eachRef(f func(n, referrer, reference int64) error) error {
	n := int64(0)
	for row := range b.from.n {
		for _, to := range b.refsOf(row) {
			n++
			if err := f(n, b.base+int64(row)+1, b.base+int64(to)); err != nil {
				return err
			}
		}
	}
	return nil
}

// ints makes a record of integers.
func (b *bulkLoad) ints(list ...int64) btree.Record {
	b.record.Reset()
	for _, n := range list {
		b.record.Int(n)
	}
	return b.record.Record()
}

func (b *bulkLoad) refsTable() error {
	t := b.image.writer.Table(b.image.roots.refs)
	if err := b.eachRef(func(n, referrer, reference int64) error { return t.Row(n, b.ints(referrer, reference)) }); err != nil {
		return err
	}
	return t.Finish()
}

func (b *bulkLoad) refsIndex() error {
	x := b.image.writer.Index(b.image.roots.refsIndex)
	if err := b.eachRef(func(n, referrer, reference int64) error { return x.Entry(b.ints(referrer, reference, n)) }); err != nil {
		return err
	}
	return x.Finish()
}

func (b *bulkLoad) referrerIndex() error {
	x := b.image.writer.Index(b.image.roots.referrerIndex)
	if err := b.eachRef(func(n, referrer, _ int64) error { return x.Entry(b.ints(referrer, n)) }); err != nil {
		return err
	}
	return x.Finish()
}

// referenceIndex counts how often each path is referred to, so that it knows where each entry belongs.
func (b *bulkLoad) referenceIndex() error {
	ends := mapped[uint32](int(b.n) + 1)
	defer unmap(ends)
	for _, to := range b.to.list() {
		ends[to]++
	}
	for i, sum := 0, uint32(0); i < len(ends); i++ {
		ends[i], sum = sum, sum+ends[i]
	}
	order := mapped[uint32](max(1, b.to.n))
	defer unmap(order)
	for i, to := range b.to.list() {
		order[ends[to]] = uint32(i)
		ends[to]++
	}
	x := b.image.writer.Index(b.image.roots.referenceIndex)
	for _, i := range order[:b.to.n] {
		if err := x.Entry(b.ints(b.base+int64(b.to.all[i]), int64(i)+1)); err != nil {
			return err
		}
	}
	return x.Finish()
}

// check completes an image by SQL, and looks for cycles.
func (b *bulkLoad) check(ctx context.Context, c *conn) error {
	if err := c.exec("delete from sqlite_sequence where name = 'ValidPaths'", nil); err != nil {
		return err
	}
	if err := c.exec("insert into sqlite_sequence (name, seq) values ('ValidPaths', ?)",
		func(s *sqlite.Stmt) { s.BindInt64(1, b.base+int64(b.n)) }); err != nil {
		return err
	}
	l, err := newLoader(b.db, c)
	if err != nil {
		return err
	}
	l.graph.base = b.base
	if len(b.again) > 0 {
		l.stream, l.again = true, true // it looks for cycles among all, in the end
		if err := l.add(ctx, b.again); err != nil {
			return err
		}
		return l.finish()
	}
	if !b.forward {
		return nil // nothing refers to what came later
	}
	refs := make([][2]int64, 0, 64)
	for row := range b.from.n {
		refs = refs[:0]
		for _, to := range b.refsOf(row) {
			refs = append(refs, [2]int64{0, b.base + int64(to)})
		}
		l.graph.add(b.base+int64(row)+1, refs)
	}
	return l.checkCycles()
}
