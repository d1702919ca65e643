package nixdb

import (
	"context"
	"strings"
	"sync/atomic"

	"zombiezen.com/go/sqlite"

	"github.com/strata-nix/strata/nixdb/btree"
	"github.com/strata-nix/strata/storepath"
)

// view answers the questions that are asked most by reading pages directly, for a
// few microseconds each where SQL takes tens. Whatever it cannot tell for certain is
// asked of SQLite: a view has no errors of its own.
type view struct {
	of     *handle
	src    *pageSource
	file   *btree.File
	layout *layout

	// What was learnt in a look that is under way.
	learnt []storepath.Path
	ids    []int64
}

// state is the state of the database that a look is about.
func (v *view) state() dbState { return dbState{v.of, v.src.seen} }

// learn notes the number of a path, to be remembered if the look turns out well.
func (v *view) learn(p storepath.Path, id int64) {
	v.learnt, v.ids = append(v.learnt, p), append(v.ids, id)
}

// maxLooks is how often a view looks again when something was committed meanwhile.
const maxLooks = 3

// For tests: whether SQLite is to be asked everything, and how often it was not.
var (
	noViews   atomic.Bool
	lookCount atomic.Int64
)

// view gives the view of a connection, nil if it cannot have one.
func (c *conn) view() *view {
	if noViews.Load() {
		return nil
	}
	if c.seen == nil && c.blind < maxLooks {
		v, err := newView(c)
		if err != nil {
			c.blind++
			return nil
		}
		c.seen, c.blind = v, 0
	}
	return c.seen
}

func newView(c *conn) (*view, error) {
	if c.h == nil || c.h.access == withLog {
		return nil, errUnseen
	}
	// All of one moment: a root page of before a vacuum, with the cookie of after it, would
	// be believed. This also makes SQLite open the log.
	var l *layout
	var s sample
	err := c.inTransaction(func(c *conn) (err error) {
		if l, err = readLayout(c); err == nil {
			s, err = takeSample(c)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	src, err := newPageSource(c.Conn, c.h.state)
	if err != nil {
		return nil, err
	}
	if !src.wal && c.h.access != immutable || !src.begin() {
		return nil, errUnseen
	}
	f, err := btree.Open(src)
	if err != nil {
		return nil, err
	}
	v := &view{of: c.h, src: src, file: f, layout: l}
	return v, v.prove(s)
}

// sample is what SQLite says of a database, for a view to prove itself by.
type sample struct {
	pages, id int64
	path      string
}

func takeSample(c *conn) (s sample, err error) {
	err = c.rows("pragma page_count", func(r *sqlite.Stmt) error { s.pages = r.ColumnInt64(0); return nil })
	if err == nil {
		err = c.rows("select id, path from ValidPaths order by id limit 1", func(r *sqlite.Stmt) error {
			s.id, s.path = r.ColumnInt64(0), r.ColumnText(1)
			return nil
		})
	}
	return s, err
}

// prove compares what the view sees with what SQLite has said. What is found out here is
// not a change of the database but a SQLite whose memory means something else. When
// something was committed in between there is no view now; see conn.view.
func (v *view) prove(s sample) error {
	cookie, err := v.file.SchemaCookie()
	if err != nil || cookie != v.layout.cookie || int64(v.src.Count()) != s.pages {
		return errUnseen
	}
	if s.id == 0 {
		return nil
	}
	id, err := v.id(s.path)
	if err != nil || id != s.id {
		return errUnseen
	}
	path, err := v.path(id)
	if err != nil || path != s.path || !v.src.unchanged() {
		return errUnseen
	}
	return nil
}

// look does f, which asks the view, and tells whether it worked, all on one state of
// the database. f may be called several times, and then only the last time counts.
func (db *DB) look(c *conn, f func(*conn, *view) error) bool {
	v := c.view()
	if v == nil {
		return false
	}
	for range maxLooks {
		if !v.src.begin() {
			return false
		}
		cookie, err := v.file.SchemaCookie()
		if err == nil && cookie != v.layout.cookie {
			c.seen = nil // to be made anew
			return false
		}
		if err == nil {
			v.learnt, v.ids = v.learnt[:0], v.ids[:0]
			err = f(c, v)
		}
		if v.src.unchanged() {
			lookCount.Add(1)
			if len(v.learnt) > 0 {
				db.known.put(v.state(), v.learnt, v.ids)
				clear(v.learnt)
			}
			return err == nil
		}
		c.known = nil // what was learnt just now may be wrong
	}
	return false
}

// ask makes a request of fast, if it works, and otherwise of slow in a transaction.
func (db *DB) ask(ctx context.Context, op string, fast func(*conn, *view) error, slow func(*conn) error) error {
	return db.reading(ctx, op, func(c *conn) error {
		if db.look(c, fast) {
			return nil
		}
		return c.transaction("begin", slow)
	})
}

// id gives the number of a valid path, 0 if it is not valid.
func (v *view) id(path string) (id int64, err error) {
	err = v.file.Tree(v.layout.pathIndex).Scan(btree.Text(path), func(r btree.Record) (bool, error) {
		var col [2]btree.Value // path, number
		if n, err := r.Columns(col[:]); err != nil || n != 2 || col[1].Kind != btree.Integer {
			return false, errUnseen
		}
		id = col[1].Int
		return false, nil
	})
	return id, err
}

// row gives the row of a valid path, false if there is none with this number.
func (v *view) row(id int64) (row infoRow, ok bool, err error) {
	r, ok, err := v.file.Tree(v.layout.paths).Row(id)
	if err != nil || !ok {
		return row, false, err
	}
	return v.understand(id, r)
}

// understand takes a row of ValidPaths apart.
func (v *view) understand(id int64, r btree.Record) (row infoRow, ok bool, err error) {
	var columns [maxColumns]btree.Value
	if _, err := r.Columns(columns[:v.layout.width]); err != nil {
		return row, false, err
	}
	row.id = id
	texts := [...]*string{colPath: &row.path, colHash: &row.hash, colDeriver: &row.deriver, colSigs: &row.sigs, colCA: &row.ca}
	numbers := [...]*int64{colRegistered: &row.registered, colNarSize: &row.narSize, colUltimate: &row.isUltimate}
	for i, at := range v.layout.at {
		value := &columns[at]
		switch {
		case value.Kind == btree.Null:
		case i < len(texts) && texts[i] != nil && value.Kind == btree.TextKind:
			*texts[i] = string(value.Text)
		case i < len(numbers) && numbers[i] != nil && value.Kind == btree.Integer:
			*numbers[i] = value.Int
		default: // SQLite would convert it
			return row, false, errUnseen
		}
	}
	return row, true, nil
}

// path gives just the path of a row.
func (v *view) path(id int64) (string, error) {
	r, ok, err := v.file.Tree(v.layout.paths).Row(id)
	if err != nil || !ok {
		return "", errUnseen
	}
	return v.pathOf(r)
}

func (v *view) pathOf(r btree.Record) (string, error) {
	var columns [maxColumns]btree.Value
	at := v.layout.at[colPath]
	if _, err := r.Columns(columns[:at+1]); err != nil || columns[at].Kind != btree.TextKind {
		return "", errUnseen
	}
	return string(columns[at].Text), nil
}

// references gives the numbers that the path with a number refers to.
func (v *view) references(id int64, to []int64) ([]int64, error) {
	err := v.file.Tree(v.layout.refsIndex).Scan(btree.Int(id), func(r btree.Record) (bool, error) {
		var col [2]btree.Value // referrer, reference
		if n, err := r.Columns(col[:]); err != nil || n != 2 || col[1].Kind != btree.Integer {
			return false, errUnseen
		}
		to = append(to, col[1].Int)
		return true, nil
	})
	return to, err
}

// referrers gives the numbers that refer to the path with a number.
func (v *view) referrers(id int64, to []int64) ([]int64, error) {
	first := len(to)
	err := v.file.Tree(v.layout.referenceIndex).Scan(btree.Int(id), func(r btree.Record) (bool, error) {
		var col [2]btree.Value // reference, number of the row
		if n, err := r.Columns(col[:]); err != nil || n != 2 || col[1].Kind != btree.Integer {
			return false, errUnseen
		}
		to = append(to, col[1].Int)
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	for i := first; i < len(to); i++ {
		var col [2]btree.Value
		r, ok, err := v.file.Tree(v.layout.refs).Row(to[i])
		if err != nil || !ok {
			return nil, errUnseen
		}
		if n, err := r.Columns(col[:]); err != nil || n != 2 || col[v.layout.referrer].Kind != btree.Integer {
			return nil, errUnseen
		}
		to[i] = col[v.layout.referrer].Int
	}
	return to, nil
}

// next gives the first valid path that begins with a prefix, "" if there is none.
func (v *view) next(prefix string) (path string, err error) {
	err = v.file.Tree(v.layout.pathIndex).Scan(btree.TextFrom(prefix), func(r btree.Record) (bool, error) {
		var col [1]btree.Value
		if n, err := r.Columns(col[:]); err != nil || n != 1 || col[0].Kind != btree.TextKind {
			return false, errUnseen
		}
		path = string(col[0].Text)
		return false, nil
	})
	if !strings.HasPrefix(path, prefix) {
		path = ""
	}
	return path, err
}

// page visits the rows of a page of a listing; see pages.
func (v *view) page(after, upTo int64, visit func(id int64, r btree.Record) error) error {
	n := 0
	return v.file.Tree(v.layout.paths).Rows(after, func(id int64, r btree.Record) (bool, error) {
		if id > upTo || n == page {
			return false, nil
		}
		n++
		return true, visit(id, r)
	})
}
