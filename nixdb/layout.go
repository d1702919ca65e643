package nixdb

import (
	"fmt"
	"strings"

	"zombiezen.com/go/sqlite"
)

// layout is where in the file the tables and indices are that a view reads.
type layout struct {
	cookie uint32 // of the schema that it is of

	paths, pathIndex                uint32 // root pages: ValidPaths, its index of path
	refs, refsIndex, referenceIndex uint32 // Refs, its indices of referrer and reference, of reference

	outputs      uint32 // root page of DerivationOutputs, 0 if it is not as expected
	realisations bool   // there are tables for them
	realised     uint32 // root page of Realisations, 0 if it is not as expected

	width    int // columns of ValidPaths
	at       [maxColumns]int
	referrer int // which column of Refs it is
}

// maxColumns is how many columns ValidPaths may have.
const maxColumns = 16

// The columns of ValidPaths, as indices of layout.at.
const (
	colPath = iota
	colHash
	colRegistered
	colDeriver
	colNarSize
	colUltimate
	colSigs
	colCA
	numColumns
)

var columnNames = [numColumns]string{"path", "hash", "registrationTime", "deriver", "narSize", "ultimate", "sigs", "ca"}

// readLayout asks SQLite for it. An error means only that there is no view.
func readLayout(c *conn) (*layout, error) {
	l := new(layout)
	roots := map[string]uint32{}
	err := c.rows("select name, rootpage from sqlite_master where tbl_name in ('ValidPaths', 'Refs', 'DerivationOutputs', 'Realisations') and rootpage > 0", func(s *sqlite.Stmt) error {
		roots[s.ColumnText(0)] = uint32(s.ColumnInt64(1))
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := c.rows("pragma schema_version", func(s *sqlite.Stmt) error { l.cookie = uint32(s.ColumnInt64(0)); return nil }); err != nil {
		return nil, err
	}
	if err := l.readColumns(c); err != nil {
		return nil, err
	}
	l.paths, l.refs, l.realisations = roots["ValidPaths"], roots["Refs"], roots["Realisations"] != 0
	if columns, err := columnsOf(c, "DerivationOutputs"); err == nil && columns == "drv,id,path," {
		l.outputs = roots["DerivationOutputs"]
	}
	if columns, err := columnsOf(c, "Realisations"); err == nil && columns == "id,drvPath,outputName,outputPath,signatures," {
		l.realised = roots["Realisations"]
	}
	for _, want := range []struct {
		table, columns string
		root           *uint32
	}{
		{"ValidPaths", "path", &l.pathIndex},
		{"Refs", "referrer,reference", &l.refsIndex},
		{"Refs", "reference", &l.referenceIndex},
	} {
		name, err := indexOf(c, want.table, want.columns)
		if err != nil {
			return nil, err
		}
		*want.root = roots[name]
	}
	if l.paths == 0 || l.refs == 0 || l.pathIndex == 0 || l.refsIndex == 0 || l.referenceIndex == 0 {
		return nil, errUnseen
	}
	return l, nil
}

// readColumns finds out in which order the columns are stored.
func (l *layout) readColumns(c *conn) error {
	found, numbered := 0, false
	err := c.rows("select cid, name, lower(type), pk, hidden from pragma_table_xinfo('ValidPaths')", func(s *sqlite.Stmt) error {
		cid, name := s.ColumnInt(0), s.ColumnText(1)
		if s.ColumnInt(4) != 0 || cid >= maxColumns {
			return errUnseen
		}
		l.width = max(l.width, cid+1)
		numbered = numbered || name == "id" && s.ColumnText(2) == "integer" && s.ColumnInt(3) == 1
		for i, want := range columnNames {
			if name == want {
				l.at[i] = cid
				found++
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	columns, err := columnsOf(c, "Refs")
	switch columns {
	case "referrer,reference,":
	case "reference,referrer,":
		l.referrer = 1
	default:
		return errUnseen
	}
	if err == nil && (found != numColumns || !numbered) {
		err = errUnseen
	}
	return err
}

// columnsOf lists the columns of a table, each with a comma behind it.
func columnsOf(c *conn, table string) (columns string, err error) {
	err = c.rows(fmt.Sprintf("select name from pragma_table_xinfo('%s') order by cid", table), func(s *sqlite.Stmt) error {
		columns += s.ColumnText(0) + ","
		return nil
	})
	return columns, err
}

// indexOf finds the index of all rows of a table by some columns, in the order in
// which a view looks.
func indexOf(c *conn, table, columns string) (name string, err error) {
	err = c.rows(fmt.Sprintf("select name from pragma_index_list('%s') where partial = 0", table), func(s *sqlite.Stmt) error {
		candidate := s.ColumnText(0)
		var have []string
		err := c.rows(fmt.Sprintf(`select name, "desc", coll from pragma_index_xinfo('%s') where key = 1 order by seqno`, candidate), func(s *sqlite.Stmt) error {
			column := s.ColumnText(0)
			if s.ColumnInt(1) != 0 || s.ColumnText(2) != "BINARY" {
				column = "?"
			}
			have = append(have, column)
			return nil
		})
		if strings.Join(have, ",") == columns {
			name = candidate
		}
		return err
	})
	return name, err
}
