package nixdb

import (
	"context"
	"iter"

	"zombiezen.com/go/sqlite"

	"github.com/strata-nix/strata/nixdb/btree"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// page is how many rows a listing reads in one transaction. Between pages it
// holds nothing, so that it can take as long as its reader likes.
const page = 1024

// AllPaths lists the paths that were valid when it began and have not been made
// invalid since. An error ends it.
func (db *DB) AllPaths(ctx context.Context) iter.Seq2[storepath.Path, error] {
	return pages(ctx, db, "listing all paths", "ValidPaths", func(c *conn, after, upTo int64) (list []storepath.Path, last int64, err error) {
		if db.look(c, func(_ *conn, v *view) error {
			list, last = nil, 0
			return v.page(after, upTo, func(id int64, r btree.Record) error {
				text, err := v.pathOf(r)
				if err != nil {
					return err
				}
				p, err := db.o.Dir.Parse(text)
				list, last = append(list, p), id
				return err
			})
		}) {
			return list, last, nil
		}
		list, last = nil, 0
		err = c.query("select path, id from ValidPaths where id > ? and id <= ? order by id limit ?",
			bindRange(after, upTo),
			func(s *sqlite.Stmt) error {
				last = s.ColumnInt64(1)
				p, err := db.scanPath(s, "ValidPaths", rowKey(last))
				list = append(list, p)
				return err
			})
		return list, last, err
	})
}

// AllPathInfos is AllPaths with the infos, each as it is when its turn comes.
func (db *DB) AllPathInfos(ctx context.Context) iter.Seq2[*store.PathInfo, error] {
	const most = 1 << 17 // that is, some 15 MiB: paths refer to others everywhere
	var all names        // that a view has told; see names
	return pages(ctx, db, "listing all path infos", "ValidPaths", func(c *conn, after, upTo int64) (list []*store.PathInfo, last int64, err error) {
		known := all
		if after == 0 || len(known) > most {
			known = make(names)
		}
		if db.look(c, func(_ *conn, v *view) error {
			if known == nil { // what the last look has told may be wrong
				known = make(names)
			}
			all, known = known, nil
			list, last, err = db.seenInfos(v, after, upTo, all)
			return err
		}) {
			return list, last, nil
		}
		all = make(names)
		list, last = nil, 0
		names := c.names()
		var ids []int64
		err = c.query("select "+infoColumns+" from ValidPaths where id > ? and id <= ? order by id limit ?",
			bindRange(after, upTo),
			func(s *sqlite.Stmt) error {
				id, info, err := db.scanInfo(s)
				if err != nil {
					return err
				}
				last = id
				names[id] = info.Path
				ids, list = append(ids, id), append(list, info)
				return nil
			})
		for i := 0; err == nil && i < len(list); i++ {
			list[i].References, err = db.references(c, ids[i], names)
		}
		return list, last, err
	})
}

func bindRange(after, upTo int64) func(s *sqlite.Stmt) {
	return func(s *sqlite.Stmt) {
		s.BindInt64(1, after)
		s.BindInt64(2, upTo)
		s.BindInt64(3, page)
	}
}

// pages makes a listing of reads of one page each: the rows of a table with
// numbers above after, up to the highest number that there was at the beginning.
// Numbers are never given twice, so no row is listed twice.
func pages[T any](ctx context.Context, db *DB, op, table string, read func(c *conn, after, upTo int64) ([]T, int64, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		var file fileState
		after, upTo := int64(0), int64(-1)
		for {
			var list []T
			var last int64
			err := db.read(ctx, op, func(c *conn) (err error) {
				if upTo < 0 {
					file = c.h.state
					if upTo, err = c.maxID(table); err != nil {
						return err
					}
				}
				if upTo == 0 {
					list = nil
					return nil
				}
				if !c.h.state.sameFile(file) {
					return failure{ErrGone} // another database with other numbers
				}
				list, last, err = read(c, after, upTo)
				return err
			})
			if err == nil {
				err = db.named(ctx, op, failureOf(ctx))
			}
			if err != nil {
				yield(none, err)
				return
			}
			for _, x := range list {
				if !yield(x, nil) {
					return
				}
			}
			if len(list) < page {
				return
			}
			after = last
		}
	}
}

// failureOf is the end of a context as a failure, nil if it goes on.
func failureOf(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return failure{context.Cause(ctx)}
}

// maxID is the highest number in a table, 0 if it is empty or not there.
func (c *conn) maxID(table string) (id int64, err error) {
	if has, err := c.hasTable(table); err != nil || !has {
		return 0, err
	}
	err = c.query("select coalesce(max(id), 0) from "+table, nil,
		func(s *sqlite.Stmt) error { id = s.ColumnInt64(0); return nil })
	return id, err
}
