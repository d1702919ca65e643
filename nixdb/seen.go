package nixdb

import (
	"context"

	"github.com/strata-nix/strata/nixdb/btree"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// What follows are the questions of query.go, asked of a view.

// seenIDs gives the numbers of paths, 0 for those that are not valid.
func (db *DB) seenIDs(ctx context.Context, v *view, paths []storepath.Path) ([]int64, error) {
	ids := make([]int64, len(paths))
	if db.known.get(v.state(), paths, ids) == 0 {
		return ids, nil
	}
	for i, p := range paths {
		if ids[i] != 0 {
			continue
		}
		if err := interrupted(ctx, i); err != nil {
			return nil, err
		}
		var err error
		if ids[i], err = v.id(db.o.Dir.Print(p)); err != nil {
			return nil, err
		}
		v.learn(p, ids[i])
	}
	return ids, nil
}

// seenID is id.
func (db *DB) seenID(v *view, p storepath.Path) (int64, error) {
	var id [1]int64
	if db.known.get(v.state(), []storepath.Path{p}, id[:]) == 0 {
		return id[0], nil
	}
	found, err := v.id(db.o.Dir.Print(p))
	v.learn(p, found)
	return found, err
}

// seenInfo is info.
func (db *DB) seenInfo(v *view, p storepath.Path, names names) (*store.PathInfo, error) {
	id, err := db.seenID(v, p)
	if err != nil || id == 0 {
		return nil, err
	}
	row, ok, err := v.row(id)
	if err != nil || !ok {
		return nil, errUnseen
	}
	info, err := db.parseInfo(&row)
	if err != nil {
		return nil, err
	}
	info.References, err = db.seenReferences(v, id, info.Path, names)
	return info, err
}

// seenReferences is references. Of p itself nothing is remembered: what was asked about
// is not what is referred to most.
func (db *DB) seenReferences(v *view, id int64, p storepath.Path, names names) ([]storepath.Path, error) {
	var few [32]int64
	ids, err := v.references(id, few[:0])
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	refs := make([]storepath.Path, len(ids))
	for i, ref := range ids {
		if ref == id {
			refs[i] = p
		} else if refs[i], err = db.seenName(v, ref, names); err != nil {
			return nil, err
		}
	}
	return storepath.SortUnique(refs), nil
}

// seenReferrers gives the paths that refer to one.
func (db *DB) seenReferrers(v *view, p storepath.Path, names names) ([]storepath.Path, error) {
	id, err := db.seenID(v, p)
	if err != nil || id == 0 {
		return nil, err
	}
	ids, err := v.referrers(id, nil)
	if err != nil {
		return nil, err
	}
	return db.seenNames(v, ids, names)
}

// seenNames gives the paths that have numbers, sorted.
func (db *DB) seenNames(v *view, ids []int64, names names) ([]storepath.Path, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	paths := make([]storepath.Path, len(ids))
	for i, id := range ids {
		var err error
		if paths[i], err = db.seenName(v, id, names); err != nil {
			return nil, err
		}
	}
	return storepath.SortUnique(paths), nil
}

// seenName is name.
func (db *DB) seenName(v *view, id int64, names names) (storepath.Path, error) {
	if p, ok := names[id]; ok {
		return p, nil
	}
	text, err := v.path(id)
	if err != nil {
		return storepath.Path{}, err
	}
	p, err := db.o.Dir.Parse(text)
	if err == nil {
		names[id] = p
	}
	return p, err
}

// seenInfos gives a page of AllPathInfos, and the number of its last row.
func (db *DB) seenInfos(v *view, after, upTo int64, names names) (list []*store.PathInfo, last int64, err error) {
	var ids []int64
	err = v.page(after, upTo, func(id int64, r btree.Record) error {
		row, _, err := v.understand(id, r)
		if err != nil {
			return err
		}
		info, err := db.parseInfo(&row)
		if err != nil {
			return err
		}
		names[id] = info.Path
		ids, list, last = append(ids, id), append(list, info), id
		return nil
	})
	for i := 0; err == nil && i < len(list); i++ {
		list[i].References, err = db.seenReferences(v, ids[i], list[i].Path, names)
	}
	return list, last, err
}

// seenClosure is Closure. A root that is not valid is for the other way to tell.
func (db *DB) seenClosure(ctx context.Context, v *view, roots []storepath.Path, o ClosureOptions, names names) ([]storepath.Path, error) {
	next := v.references
	if o.Referrers {
		next = v.referrers
	}
	reached := map[int64]struct{}{}
	var ids, some []int64
	add := func(id int64) {
		if _, ok := reached[id]; !ok {
			reached[id] = struct{}{}
			ids = append(ids, id)
		}
	}
	for _, p := range roots {
		id, err := db.seenID(v, p)
		if err != nil || id == 0 {
			return nil, errUnseen
		}
		add(id)
	}
	closure := make([]storepath.Path, 0, len(roots))
	for i := 0; i < len(ids); i++ { // ids grows
		if err := interrupted(ctx, i); err != nil {
			return nil, err
		}
		var err error
		if some, err = next(ids[i], some[:0]); err != nil {
			return nil, err
		}
		for _, id := range some {
			add(id)
		}
		p, err := db.seenName(v, ids[i], names)
		if err != nil {
			return nil, err
		}
		closure = append(closure, p)
	}
	return closure, nil
}
