package nixdb

import (
	"context"
	"fmt"
	"iter"

	"zombiezen.com/go/sqlite"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// hasTable tells whether a table is there. Those for realisations are not, if
// nobody ever asked for content-addressed derivations.
func (c *conn) hasTable(name string) (has bool, err error) {
	err = c.query("select 1 from sqlite_master where type = 'table' and name = ?",
		func(s *sqlite.Stmt) { s.BindText(1, name) },
		func(*sqlite.Stmt) error { has = true; return nil })
	return has, err
}

const realisationColumns = "r.id, r.drvPath, r.outputName, v.path, r.signatures"

// scanRealisation makes a realisation, but for what it depends on, of a row of
// realisationColumns.
func (db *DB) scanRealisation(s *sqlite.Stmt) (id int64, r *store.Realisation, err error) {
	id = s.ColumnInt64(0)
	drv, output := s.ColumnText(1), s.ColumnText(2)
	damaged := func(err error) error {
		return &RowError{Table: "Realisations", Key: drv + "!" + output, Err: err}
	}
	r = &store.Realisation{}
	if r.ID, err = store.ParseDrvOutput(drv + "!" + output); err != nil {
		return id, nil, damaged(err)
	}
	if r.OutPath, err = db.o.Dir.Parse(s.ColumnText(3)); err != nil {
		return id, nil, damaged(err)
	}
	if r.Signatures, err = parseSignatures(s.ColumnText(4)); err != nil {
		return id, nil, damaged(err)
	}
	return id, r, nil
}

// realisation gives one with its number, nil if there is none.
func (db *DB) realisation(c *conn, key store.DrvOutput) (id int64, r *store.Realisation, err error) {
	err = c.query("select "+realisationColumns+" from Realisations r join ValidPaths v on v.id = r.outputPath "+
		"where r.drvPath = ? and r.outputName = ?",
		func(s *sqlite.Stmt) { bindDrvOutput(s, 1, key) },
		func(s *sqlite.Stmt) error { id, r, err = db.scanRealisation(s); return err })
	return id, r, err
}

func bindDrvOutput(s *sqlite.Stmt, at int, key store.DrvOutput) {
	s.BindText(at, key.DrvHash.Text(nixhash.Base16))
	s.BindText(at+1, key.Output)
}

// readDependent reads what a realisation was built with.
func (db *DB) readDependent(c *conn, id int64, r *store.Realisation) error {
	return c.query("select "+realisationColumns+" from RealisationsRefs d "+
		"join Realisations r on r.id = d.realisationReference join ValidPaths v on v.id = r.outputPath where d.referrer = ?",
		func(s *sqlite.Stmt) { s.BindInt64(1, id) },
		func(s *sqlite.Stmt) error {
			_, dep, err := db.scanRealisation(s)
			if err != nil {
				return err
			}
			if r.Dependent == nil {
				r.Dependent = map[store.DrvOutput]storepath.Path{}
			}
			r.Dependent[dep.ID] = dep.OutPath
			return nil
		})
}

// Realisations gives one answer for each id, nil where there is none.
func (db *DB) Realisations(ctx context.Context, ids []store.DrvOutput) ([]*store.Realisation, error) {
	var list []*store.Realisation
	err := db.read(ctx, "asking for realisations", func(c *conn) error {
		list = make([]*store.Realisation, len(ids))
		if has, err := c.hasTable("Realisations"); err != nil || !has {
			return err
		}
		for i, key := range ids {
			if err := interrupted(ctx, i); err != nil {
				return err
			}
			id, r, err := db.realisation(c, key)
			if err == nil && r != nil {
				err = db.readDependent(c, id, r)
			}
			if err != nil {
				return err
			}
			list[i] = r
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// AllRealisations lists them as AllPathInfos lists path infos.
func (db *DB) AllRealisations(ctx context.Context) iter.Seq2[*store.Realisation, error] {
	return pages(ctx, db, "listing all realisations", "Realisations", func(c *conn, after, upTo int64) (list []*store.Realisation, last int64, err error) {
		var ids []int64
		err = c.query("select "+realisationColumns+" from Realisations r join ValidPaths v on v.id = r.outputPath "+
			"where r.id > ? and r.id <= ? order by r.id limit ?",
			bindRange(after, upTo),
			func(s *sqlite.Stmt) (err error) {
				var r *store.Realisation
				if last, r, err = db.scanRealisation(s); err != nil {
					return err
				}
				ids, list = append(ids, last), append(list, r)
				return nil
			})
		for i := 0; err == nil && i < len(list); i++ {
			err = db.readDependent(c, ids[i], list[i])
		}
		return list, last, err
	})
}

// RegisterRealisations stores realisations in one transaction. The signatures of
// one that is known are merged; another path for the same output is a
// [RealisationConflictError]. Of what a realisation was built with, that is kept
// which is known here with the same result. Without the tables (see Options) it is
// unsupported.
func (db *DB) RegisterRealisations(ctx context.Context, rs []*store.Realisation) error {
	return db.write(ctx, "registering realisations", func(c *conn) error {
		has, err := c.hasTable("Realisations")
		if err != nil {
			return err
		}
		if !has {
			return fmt.Errorf("%w: the database has no tables for realisations (experimental feature ca-derivations)", store.ErrUnsupported)
		}
		ids := make([]int64, len(rs))
		for i, r := range rs {
			if ids[i], err = db.putRealisation(c, r); err != nil {
				return err
			}
		}
		for i, r := range rs {
			if err := db.putDependent(c, ids[i], r); err != nil {
				return err
			}
		}
		return nil
	})
}

func (db *DB) putRealisation(c *conn, r *store.Realisation) (int64, error) {
	id, have, err := db.realisation(c, r.ID)
	if err != nil {
		return 0, err
	}
	if have == nil {
		out, err := db.validID(c, r.OutPath)
		if err != nil {
			return 0, err
		}
		err = c.exec("insert into Realisations (drvPath, outputName, outputPath, signatures) values (?, ?, ?, ?)", func(s *sqlite.Stmt) {
			bindDrvOutput(s, 1, r.ID)
			s.BindInt64(3, out)
			// Not null, which Nix does not expect here.
			s.BindText(4, printSignatures(sortSignatures(append([]store.Signature(nil), r.Signatures...))))
		})
		return c.LastInsertRowID(), err
	}
	if have.OutPath != r.OutPath {
		return 0, &RealisationConflictError{ID: r.ID.String(), Have: db.o.Dir.Print(have.OutPath), Got: db.o.Dir.Print(r.OutPath)}
	}
	return id, c.exec("update Realisations set signatures = ? where id = ?", func(s *sqlite.Stmt) {
		s.BindText(1, printSignatures(sortSignatures(append(have.Signatures, r.Signatures...))))
		s.BindInt64(2, id)
	})
}

func (db *DB) putDependent(c *conn, id int64, r *store.Realisation) error {
	for key, path := range r.Dependent {
		to, have, err := db.realisation(c, key)
		if err != nil {
			return err
		}
		if have == nil || have.OutPath != path {
			continue
		}
		err = c.exec("insert into RealisationsRefs (referrer, realisationReference) select ?1, ?2 where not exists "+
			"(select 1 from RealisationsRefs where referrer = ?1 and realisationReference = ?2)",
			func(s *sqlite.Stmt) {
				s.BindInt64(1, id)
				s.BindInt64(2, to)
			})
		if err != nil {
			return err
		}
	}
	return nil
}

// DeleteRealisations forgets realisations; what is not known is passed over.
func (db *DB) DeleteRealisations(ctx context.Context, ids []store.DrvOutput) error {
	return db.write(ctx, "deleting realisations", func(c *conn) error {
		if has, err := c.hasTable("Realisations"); err != nil || !has {
			return err
		}
		for _, key := range ids {
			for _, sql := range []string{
				// What was built with it no longer says so.
				"delete from RealisationsRefs where realisationReference in (select id from Realisations where drvPath = ? and outputName = ?)",
				"delete from Realisations where drvPath = ? and outputName = ?",
			} {
				if err := c.exec(sql, func(s *sqlite.Stmt) { bindDrvOutput(s, 1, key) }); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
