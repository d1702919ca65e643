package nixdb

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"zombiezen.com/go/sqlite"

	"github.com/strata-nix/strata/storepath"
)

// DamageKind sorts what is wrong with a database by what mends it.
type DamageKind int

// The kinds.
const (
	DamagedPages   DamageKind = iota // nothing but a backup mends that
	DamagedIndex                     // see DB.Reindex
	DamagedSchema                    // a table is of another shape
	DamagedRow                       // it cannot be understood; see DB.MendRow
	DanglingRow                      // it refers to a row that is not there
	DamagedFiles                     // those beside the database; see DB.MendFiles
	damageKindsEnd = iota
)

// Damage is one thing that is wrong with a database.
type Damage struct {
	Kind DamageKind
	Text string // a sentence
	// Table and ID name the row that it is about. Table is "" if it is about none.
	Table string
	ID    int64
	// Path is that of the row of ValidPaths that it is about, or that the row belongs
	// to. Zero: none, or its path cannot be read.
	Path storepath.Path
}

func (d Damage) String() string { return d.Text }

// maxDamage is how much of a kind is listed.
const maxDamage = 1000

// Thoroughness says how closely a database is looked at.
type Thoroughness int

// How closely.
const (
	Thorough Thoroughness = iota // every entry of every index is looked up
	Quick                        // the entries of indices are only counted: some ten times faster
)

// Check looks for damage of the database itself: pages and indices, references to
// rows that are not there, rows that cannot be understood, tables of another
// shape, files that are not as they should be. It lists up to a thousand of each
// kind, and gives an error only if it could not look. It reads everything.
func (db *DB) Check(ctx context.Context, how Thoroughness) ([]Damage, error) {
	var found findings
	err := db.read(ctx, "checking", func(c *conn) error {
		found = findings{}
		defer c.interruptible(ctx)()
		shape, err := checkTables(c, &found)
		if err != nil {
			return err
		}
		if err := checkPages(c, &found, how); err != nil || !shape {
			return err // there is nothing to be read that could be understood
		}
		for _, check := range []func(*conn, *findings) error{checkIndices, db.checkForeignKeys, db.checkRows, db.checkOutputs} {
			if err := check(c, &found); err != nil {
				return err
			}
		}
		return nil
	})
	if isCorrupt(err) {
		// So much so that the looking itself failed.
		found.add(Damage{Kind: DamagedPages, Text: err.Error()})
		err = nil
	}
	db.checkFiles(&found)
	return found.list, err
}

// findings is what a check has found.
type findings struct {
	list  []Damage
	count [damageKindsEnd]int
}

func (f *findings) add(d Damage) {
	if f.count[d.Kind]++; f.count[d.Kind] <= maxDamage {
		f.list = append(f.list, d)
	}
}

// checkPages tells what SQLite finds. What it says of indices follows from its
// words, as there is nothing else.
func checkPages(c *conn, found *findings, how Thoroughness) error {
	pragma := "integrity_check"
	if how == Quick {
		pragma = "quick_check"
	}
	return c.query(fmt.Sprintf("pragma %s(%d)", pragma, maxDamage), nil, func(s *sqlite.Stmt) error {
		text := s.ColumnText(0)
		if text == "ok" {
			return nil
		}
		d := Damage{Kind: DamagedPages, Text: "integrity: " + text}
		if strings.Contains(text, "missing from index") || strings.HasPrefix(text, "wrong # of entries in index") ||
			strings.HasPrefix(text, "non-unique entry in index") {
			d.Kind = DamagedIndex
		}
		found.add(d)
		return nil
	})
}

// tables are the columns of schema 10. More of them do no harm.
var tables = []struct {
	name    string
	columns []string
}{
	{"ValidPaths", []string{"id integer", "path text", "hash text", "registrationTime integer", "deriver text",
		"narSize integer", "ultimate integer", "sigs text", "ca text"}},
	{"Refs", []string{"referrer integer", "reference integer"}},
	{"DerivationOutputs", []string{"drv integer", "id text", "path text"}},
}

// checkTables tells whether the tables have all the columns that are read.
func checkTables(c *conn, found *findings) (shape bool, err error) {
	shape = true
	for _, t := range tables {
		have, err := c.columns(t.name)
		if err != nil {
			return false, err
		}
		for _, col := range t.columns {
			if !have[col] {
				shape = false
				found.add(Damage{Kind: DamagedSchema, Text: fmt.Sprintf("table %s has no column '%s'", t.name, col)})
			}
		}
	}
	return shape, nil
}

// indices are those that the schema makes, with the column that each is of.
var indices = []struct{ name, table, column, sql string }{
	{"IndexReferrer", "Refs", "referrer", indexReferrer},
	{"IndexReference", "Refs", "reference", indexReference},
	{"IndexDerivationOutputs", "DerivationOutputs", "path", indexDerivationOutputs},
}

// checkIndices compares indices with those that the schema makes, and looks for its
// trigger.
func checkIndices(c *conn, found *findings) error {
	for _, want := range indices {
		table, columns, err := c.index(want.name)
		switch {
		case err != nil:
			return err
		case table == "":
			found.add(Damage{Kind: DamagedIndex, Text: fmt.Sprintf("index %s is not there", want.name)})
		case table != want.table || columns != want.column:
			found.add(Damage{Kind: DamagedIndex, Text: fmt.Sprintf("index %s is of %s(%s) instead of %s(%s)", want.name, table, columns, want.table, want.column)})
		default:
			if err := countIndex(c, found, want.name, want.table); err != nil {
				return err
			}
		}
	}
	// The one that SQLite makes for a column that is unique.
	if err := countIndex(c, found, "sqlite_autoindex_ValidPaths_1", "ValidPaths"); err != nil {
		return err
	}
	there := false
	err := c.query("select 1 from sqlite_master where type = 'trigger' and name = 'DeleteSelfRefs'", nil,
		func(*sqlite.Stmt) error { there = true; return nil })
	if err == nil && !there {
		found.add(Damage{Kind: DamagedIndex, Text: "trigger DeleteSelfRefs is not there, without which a path that refers to itself cannot be deleted"})
	}
	return err
}

// countIndex compares the number of entries of an index with that of rows.
func countIndex(c *conn, found *findings, name, table string) error {
	var n [2]int64
	for i, by := range []string{"not indexed", "indexed by " + name} {
		if err := c.query("select count(*) from "+table+" "+by, nil,
			func(s *sqlite.Stmt) error { n[i] = s.ColumnInt64(0); return nil }); err != nil {
			return err
		}
	}
	if n[0] != n[1] {
		found.add(Damage{Kind: DamagedIndex, Text: fmt.Sprintf("index %s has %d entries for %d rows of %s", name, n[1], n[0], table)})
	}
	return nil
}

// index tells what an index is of; table is "" if there is none.
func (c *conn) index(name string) (table, columns string, err error) {
	bind := func(s *sqlite.Stmt) { s.BindText(1, name) }
	if err = c.query("select tbl_name from sqlite_master where type = 'index' and name = ?", bind,
		func(s *sqlite.Stmt) error { table = s.ColumnText(0); return nil }); err != nil || table == "" {
		return table, "", err
	}
	err = c.query("select coalesce(group_concat(name), '') from pragma_index_info(?)", bind,
		func(s *sqlite.Stmt) error { columns = s.ColumnText(0); return nil })
	return table, columns, err
}

// checkForeignKeys tells which rows refer to rows that are not there, and whose they
// are.
func (db *DB) checkForeignKeys(c *conn, found *findings) error {
	// The pragma takes several times as long as this, and there is next to never any.
	whole := true
	for _, ref := range []string{
		"Refs left join ValidPaths on id = reference", "Refs left join ValidPaths on id = referrer", "DerivationOutputs d left join ValidPaths v on v.id = d.drv",
	} {
		id := "id"
		if strings.Contains(ref, " v ") {
			id = "v.id"
		}
		if err := c.query("select 1 from "+ref+" where "+id+" is null limit 1", nil,
			func(*sqlite.Stmt) error { whole = false; return nil }); err != nil {
			return err
		}
	}
	if has, err := c.hasTable("Realisations"); err != nil || whole && !has {
		return err
	}
	type row struct {
		table string
		id    int64
	}
	var rows []row
	if err := c.query("pragma foreign_key_check", nil, func(s *sqlite.Stmt) error {
		if len(rows) < maxDamage {
			rows = append(rows, row{s.ColumnText(0), s.ColumnInt64(1)})
		}
		return nil
	}); err != nil {
		return err
	}
	slices.SortFunc(rows, func(a, b row) int { return strings.Compare(a.table, b.table) })
	for _, r := range rows {
		d := Damage{Kind: DanglingRow, Table: r.table, ID: r.id, Text: fmt.Sprintf("row %d of table %s refers to a row that is not there", r.id, r.table)}
		if r.table == "Refs" {
			if err := db.describeRef(c, &d); err != nil {
				return err
			}
		}
		found.add(d)
	}
	return nil
}

// describeRef says whose reference it is that leads nowhere.
func (db *DB) describeRef(c *conn, d *Damage) error {
	return c.query("select path, reference from Refs left join ValidPaths on id = referrer where Refs.rowid = ?",
		func(s *sqlite.Stmt) { s.BindInt64(1, d.ID) },
		func(s *sqlite.Stmt) error {
			if p, err := db.o.Dir.Parse(s.ColumnText(0)); err == nil {
				d.Path = p
				d.Text = fmt.Sprintf("it refers to row %d of ValidPaths, which is not there", s.ColumnInt64(1))
			}
			return nil
		})
}

// checkRows reads every row of ValidPaths as a request would.
func (db *DB) checkRows(c *conn, found *findings) error {
	return c.query("select "+infoColumns+" from ValidPaths", nil, func(s *sqlite.Stmt) error {
		_, _, err := db.scanInfo(s)
		if err != nil {
			d := Damage{Kind: DamagedRow, Text: err.Error(), Table: "ValidPaths", ID: s.ColumnInt64(0)}
			d.Path, _ = db.o.Dir.Parse(s.ColumnText(1))
			found.add(d)
		}
		return nil
	})
}

func (db *DB) checkOutputs(c *conn, found *findings) error {
	return c.query("select d.path, d.rowid, d.drv, v.path from DerivationOutputs d left join ValidPaths v on v.id = d.drv", nil, func(s *sqlite.Stmt) error {
		if _, err := db.scanPath(s, "DerivationOutputs", rowKey(s.ColumnInt64(2))); err != nil {
			d := Damage{Kind: DamagedRow, Text: err.Error(), Table: "DerivationOutputs", ID: s.ColumnInt64(1)}
			d.Path, _ = db.o.Dir.Parse(s.ColumnText(3))
			found.add(d)
		}
		return nil
	})
}
