package btree

import (
	"bytes"
)

// Range says where an entry of an index is as compared with those that are wanted:
// below 0 before them, 0 among them, above 0 behind them. It looks at the first
// column.
type Range func(first Value) int

// Text is the range of one text.
func Text(key string) Range {
	want := []byte(key)
	return func(v Value) int { return compareText(v, want) }
}

// TextFrom is the range of all texts not before one.
func TextFrom(key string) Range {
	want := []byte(key)
	return func(v Value) int { return min(compareText(v, want), 0) }
}

// Int is the range of one number.
func Int(key int64) Range {
	return func(v Value) int {
		switch v.Kind {
		case Integer, Float:
			return v.compareInt(key)
		case Null:
			return -1
		}
		return 1
	}
}

// compareText orders as SQLite does: null, numbers, texts, blobs.
func compareText(v Value, want []byte) int {
	switch v.Kind {
	case TextKind:
		return bytes.Compare(v.Text, want)
	case Blob:
		return 1
	}
	return -1
}

// Scan visits the entries of an index that are in a range, in order, until visit
// returns false. The record is good only during the visit, which must not ask for
// pages.
func (t Tree) Scan(in Range, visit func(r Record) (more bool, err error)) error {
	_, err := t.f.scan(t.root, in, &walk{left: t.f.src.Count()}, visit)
	return err
}

// All visits all entries of an index in order, until visit returns false. The record is good only
// during the visit, which must not ask for pages.
func (t Tree) All(visit func(r Record) (more bool, err error)) error {
	_, err := t.f.all(t.root, &walk{left: t.f.src.Count()}, visit)
	return err
}

// all does a part of All, and tells whether to go on.
func (f *File) all(page uint32, w *walk, visit func(Record) (bool, error)) (more bool, err error) {
	if !w.enter() {
		return false, errCircle
	}
	defer w.leave()
	d, err := f.node(page, false)
	for i := 0; err == nil; i++ {
		if d.kind.interior() {
			child, err := d.child(i)
			if err != nil {
				return false, err
			}
			if more, err := f.all(child, w, visit); err != nil || !more {
				return more, err
			}
			if d, err = f.node(page, false); err != nil { // others have used its memory
				return false, err
			}
		}
		if i >= d.cells {
			return true, nil
		}
		r, err := d.entry(i)
		if err != nil {
			return false, err
		}
		if more, err := visit(r); err != nil || !more {
			return more, err
		}
	}
	return false, err
}

// scan does a part of Scan, and tells whether to go on.
func (f *File) scan(page uint32, in Range, w *walk, visit func(Record) (bool, error)) (more bool, err error) {
	if !w.enter() {
		return false, errCircle
	}
	defer w.leave()
	d, err := f.node(page, false)
	if err != nil {
		return false, err
	}
	i, err := d.lower(in)
	if err != nil {
		return false, err
	}
	for ; ; i++ {
		if d.kind.interior() {
			child, err := d.child(i)
			if err != nil {
				return false, err
			}
			if more, err := f.scan(child, in, w, visit); err != nil || !more {
				return more, err
			}
			if d, err = f.node(page, false); err != nil { // others have used its memory
				return false, err
			}
		}
		if i >= d.cells {
			return true, nil
		}
		r, err := d.entry(i)
		if err != nil {
			return false, err
		}
		where, err := r.in(in)
		if err != nil || where != 0 {
			return false, err
		}
		if more, err := visit(r); err != nil || !more {
			return more, err
		}
	}
}

// lower finds the first cell that is not before a range.
func (d *node) lower(in Range) (int, error) {
	lo, hi := 0, d.cells
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		r, err := d.entry(mid)
		if err != nil {
			return 0, err
		}
		where, err := r.in(in)
		if err != nil {
			return 0, err
		}
		if where < 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, nil
}

// in tells where the record is.
func (r Record) in(in Range) (int, error) {
	first, err := r.first()
	if err != nil {
		return 0, err
	}
	return in(first), nil
}
