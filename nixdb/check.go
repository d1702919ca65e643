package nixdb

import (
	"context"
	"fmt"

	"zombiezen.com/go/sqlite"
)

// maxProblems is where a check stops to list what it finds.
const maxProblems = 100

// Check looks for damage of the database itself: pages and indices, references to
// rows that are not there, rows that cannot be understood, tables of another
// shape. It gives a sentence for each problem, up to a hundred, and an error only
// if it could not look. It reads everything.
func (db *DB) Check(ctx context.Context) ([]string, error) {
	var problems []string
	err := db.read(ctx, "checking", func(c *conn) error {
		problems = nil
		defer c.interruptible(ctx)()
		for _, check := range []func(*conn, func(string, ...any)) error{checkPages, checkTables, checkForeignKeys, db.checkRows} {
			if err := check(c, func(format string, args ...any) {
				if len(problems) < maxProblems {
					problems = append(problems, fmt.Sprintf(format, args...))
				}
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if isCorrupt(err) {
		// So much so that the looking itself failed.
		return append(problems, err.Error()), nil
	}
	return problems, err
}

func checkPages(c *conn, problem func(string, ...any)) error {
	return c.query("pragma integrity_check(100)", nil, func(s *sqlite.Stmt) error {
		if text := s.ColumnText(0); text != "ok" {
			problem("integrity: %s", text)
		}
		return nil
	})
}

// checkTables compares the columns with those of schema 10. More of them do no
// harm.
func checkTables(c *conn, problem func(string, ...any)) error {
	for _, t := range []struct {
		name    string
		columns []string
	}{
		{"ValidPaths", []string{"id integer", "path text", "hash text", "registrationTime integer", "deriver text",
			"narSize integer", "ultimate integer", "sigs text", "ca text"}},
		{"Refs", []string{"referrer integer", "reference integer"}},
		{"DerivationOutputs", []string{"drv integer", "id text", "path text"}},
	} {
		have, err := c.columns(t.name)
		if err != nil {
			return err
		}
		for _, col := range t.columns {
			if !have[col] {
				problem("table %s has no column '%s'", t.name, col)
			}
		}
	}
	return nil
}

func checkForeignKeys(c *conn, problem func(string, ...any)) error {
	return c.query("pragma foreign_key_check", nil, func(s *sqlite.Stmt) error {
		problem("row %d of table %s refers to a row of %s that is not there", s.ColumnInt64(1), s.ColumnText(0), s.ColumnText(2))
		return nil
	})
}

// checkRows reads every row of ValidPaths as a request would.
func (db *DB) checkRows(c *conn, problem func(string, ...any)) error {
	if err := c.query("select "+infoColumns+" from ValidPaths", nil, func(s *sqlite.Stmt) error {
		if _, _, err := db.scanInfo(s); err != nil {
			problem("%v", err)
		}
		return nil
	}); err != nil {
		return err
	}
	return c.query("select path, drv from DerivationOutputs", nil, func(s *sqlite.Stmt) error {
		if _, err := db.scanPath(s, "DerivationOutputs", rowKey(s.ColumnInt64(1))); err != nil {
			problem("%v", err)
		}
		return nil
	})
}
