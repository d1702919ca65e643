package nixdb

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"zombiezen.com/go/sqlite"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// loader writes registrations within one transaction.
//
// A path may be referred to before it is registered. It gets its number then, and
// waits among the promised until its registration comes. So each reference is
// written at once, and nothing has to be read twice.
type loader struct {
	db   *DB
	c    *conn
	last int64 // number given last
	// empty: there were no paths at the beginning, so nothing need be looked up
	// that is in numbers.
	empty    bool
	numbers  numbers
	promised map[storepath.Path]promise
	graph    loadedRefs

	rows []pathRow  // not written yet
	refs [][2]int64 // not written yet

	again bool // a path came twice
	// stream: more comes after what add was given, so there may be promises.
	stream bool
	// reindex: the indices of references are to be made at the end.
	reindex bool
}

// promise is a path that must be registered before the end.
type promise struct {
	id int64
	by storepath.Path // refers to it
}

func newLoader(db *DB, c *conn) (*loader, error) {
	l := &loader{db: db, c: c, empty: true, numbers: newNumbers(), promised: map[storepath.Path]promise{}}
	var err error
	if l.last, err = c.maxID("ValidPaths"); err != nil {
		return nil, err
	}
	// The table's own counter, since no number is given twice.
	err = c.query("select seq from sqlite_sequence where name = 'ValidPaths'", nil,
		func(s *sqlite.Stmt) error { l.last = max(l.last, s.ColumnInt64(0)); return nil })
	if err == nil {
		err = c.query("select 1 from ValidPaths limit 1", nil, func(*sqlite.Stmt) error { l.empty = false; return nil })
	}
	l.graph.base = l.last
	return l, err
}

// beginStream prepares for more than one add. It leaves the indices of an empty
// table for the end, when they can be made of sorted keys.
func (l *loader) beginStream() error {
	l.stream, l.reindex = true, l.empty
	if !l.reindex {
		return nil
	}
	return l.c.script("drop index if exists IndexReferrer", "drop index if exists IndexReference")
}

// add writes registrations. It sorts them, so that the pages of the index of
// paths are visited in order.
func (l *loader) add(ctx context.Context, regs []Registration) error {
	slices.SortStableFunc(regs, func(a, b Registration) int { return storepath.Compare(a.Info.Path, b.Info.Path) })
	ids := make([]int64, len(regs))
	for i, r := range regs {
		if err := interrupted(ctx, i); err != nil {
			return err
		}
		var err error
		if ids[i], err = l.addPath(r.Info); err != nil {
			return err
		}
	}
	if err := l.flushRows(); err != nil {
		return err
	}
	for i, r := range regs {
		if err := interrupted(ctx, i); err != nil {
			return err
		}
		if err := l.addRefs(ids[i], r.Info); err != nil {
			return err
		}
		if err := l.addOutputs(ids[i], r.Outputs); err != nil {
			return err
		}
	}
	if err := l.flushRefs(); err != nil {
		return err
	}
	if len(l.promised) == 0 {
		// What comes later cannot lie on a cycle through what is here.
		return l.checkCycles()
	}
	return nil
}

// checkCycles checks what was added since it was called last.
func (l *loader) checkCycles() error {
	cycle := l.graph.cycle()
	l.graph.forget()
	if cycle != nil {
		return l.cycleError(cycle)
	}
	return nil
}

// addPath makes the row of a path, or updates it.
func (l *loader) addPath(info *store.PathInfo) (int64, error) {
	if err := l.db.checkHash(info); err != nil {
		return 0, err
	}
	id, valid, err := l.lookUp(info.Path)
	if err != nil {
		return 0, err
	}
	if valid {
		l.again = l.again || l.stream && id > l.graph.base
		return id, l.update(info)
	}
	if err := l.db.checkAddress(info); err != nil {
		return 0, err
	}
	if id == 0 {
		id = l.nextID()
	}
	delete(l.promised, info.Path)
	l.numbers.set(info.Path, id)
	l.rows = append(l.rows, pathRow{id: id, info: info})
	if len(l.rows) == rowsAtOnce {
		return id, l.flushRows()
	}
	return id, nil
}

func (l *loader) update(info *store.PathInfo) error {
	if err := l.flushRows(); err != nil { // it may be among them
		return err
	}
	return l.db.update(l.c, info)
}

func (l *loader) nextID() int64 {
	l.last++
	return l.last
}

// lookUp gives the number of a path, 0 if it has none, and whether it is valid.
func (l *loader) lookUp(p storepath.Path) (id int64, valid bool, err error) {
	if pr, ok := l.promised[p]; ok {
		return pr.id, false, nil
	}
	if id := l.numbers.get(p); id != 0 {
		return id, true, nil
	}
	if l.empty && !l.numbers.forgot {
		return 0, false, nil
	}
	if err := l.flushRows(); err != nil {
		return 0, false, err
	}
	id, err = l.db.id(l.c, p)
	if id != 0 {
		l.numbers.set(p, id)
	}
	return id, id != 0, err
}

// addRefs writes the references of a path.
func (l *loader) addRefs(id int64, info *store.PathInfo) error {
	start := len(l.refs)
	for _, ref := range info.References {
		to, _, err := l.lookUp(ref)
		if err != nil {
			return err
		}
		if to == 0 && !l.stream {
			return &store.InvalidPathError{Path: l.db.o.Dir.Print(ref), By: l.db.o.Dir.Print(info.Path)}
		}
		if to == 0 {
			to = l.nextID()
			l.promised[ref] = promise{id: to, by: info.Path}
		}
		l.refs = append(l.refs, [2]int64{id, to})
	}
	// In the order of the table's key.
	slices.SortFunc(l.refs[start:], func(a, b [2]int64) int { return cmp.Compare(a[1], b[1]) })
	l.graph.add(id, l.refs[start:])
	if len(l.refs) >= refsAtOnce {
		return l.flushRefs()
	}
	return nil
}

func (l *loader) addOutputs(id int64, outputs map[string]storepath.Path) error {
	for name, p := range outputs {
		if p.IsZero() {
			continue
		}
		if err := l.c.exec("insert or replace into DerivationOutputs (drv, id, path) values (?, ?, ?)", func(s *sqlite.Stmt) {
			s.BindInt64(1, id)
			s.BindText(2, name)
			s.BindText(3, l.db.o.Dir.Print(p))
		}); err != nil {
			return err
		}
	}
	return nil
}

// finish writes what is left, and checks what can be known only now.
func (l *loader) finish() error {
	if len(l.promised) > 0 {
		return l.brokenPromise()
	}
	if l.again {
		// A path got references after it was checked.
		if err := l.graph.readAll(l.c); err != nil {
			return err
		}
		if err := l.checkCycles(); err != nil {
			return err
		}
	}
	if l.reindex {
		return l.c.script(indexReferrer, indexReference)
	}
	return nil
}

// brokenPromise names the first of the paths that were not registered.
func (l *loader) brokenPromise() error {
	var first storepath.Path
	for p := range l.promised {
		if first.IsZero() || storepath.Compare(p, first) < 0 {
			first = p
		}
	}
	return &store.InvalidPathError{Path: l.db.o.Dir.Print(first), By: l.db.o.Dir.Print(l.promised[first].by)}
}

func (l *loader) cycleError(ids []int64) error {
	e := &CycleError{}
	names := make(names)
	for _, id := range ids {
		p, err := l.db.name(l.c, id, names)
		if err != nil {
			return err
		}
		e.Paths = append(e.Paths, l.db.o.Dir.Print(p))
	}
	return e
}

// Rows that one statement writes: with one each, half of the time goes into
// starting and ending statements.
const (
	rowsAtOnce = 64
	refsAtOnce = 128
)

var (
	insertRow  = pathRowInto + values(1, pathRowColumns)
	insertRows = pathRowInto + values(rowsAtOnce, pathRowColumns)

	insertRef  = refInto + values(1, 2)
	insertRefs = refInto + values(refsAtOnce, 2)
)

const refInto = "insert or ignore into Refs (referrer, reference) values "

// values gives "(?,?),(?,?)" for two rows of two columns.
func values(rows, columns int) string {
	row := "(" + strings.TrimSuffix(strings.Repeat("?,", columns), ",") + "),"
	return strings.TrimSuffix(strings.Repeat(row, rows), ",")
}

func (l *loader) flushRows() error {
	err := inChunks(l.c, l.rows, rowsAtOnce, insertRow, insertRows, func(s *sqlite.Stmt, i int, r pathRow) {
		r.bind(s, i*pathRowColumns, l.db.o.Dir)
	})
	clear(l.rows)
	l.rows = l.rows[:0]
	return err
}

func (l *loader) flushRefs() error {
	err := inChunks(l.c, l.refs, refsAtOnce, insertRef, insertRefs, func(s *sqlite.Stmt, i int, r [2]int64) {
		s.BindInt64(2*i+1, r[0])
		s.BindInt64(2*i+2, r[1])
	})
	l.refs = l.refs[:0]
	return err
}

// inChunks executes a statement for n rows as long as there are so many, and one
// for a single row for the rest.
func inChunks[T any](c *conn, list []T, n int, one, many string, bind func(s *sqlite.Stmt, i int, x T)) error {
	for len(list) > 0 {
		sql, k := one, 1
		if len(list) >= n {
			sql, k = many, n
		}
		if err := c.exec(sql, func(s *sqlite.Stmt) {
			for i, x := range list[:k] {
				bind(s, i, x)
			}
		}); err != nil {
			return err
		}
		list = list[k:]
	}
	return nil
}
