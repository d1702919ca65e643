// Package btree reads rows of a SQLite database straight from its pages: tables by
// row number, indices by their first column. It is for the few questions that are
// asked ten thousand times a second, where going through SQL costs more than the
// answer.
//
//	f, err := btree.Open(pages)            // pages is where pages come from
//	t := f.Tree(root)                      // root from the table sqlite_schema
//	row, ok, err := t.Row(17)
//	err = t.Scan(btree.Text(path), visit)  // all entries of an index with that text
//
// It only reads. Which version of a page is the right one, and that it stays that
// while it is read, is the business of the [Source].
//
// What will bite: it knows text in UTF-8 and the collation BINARY, and index
// entries that fit into one page. For all else there is [ErrUnsupported], and the
// caller has to ask SQLite. A page that makes no sense is [ErrFormat]: every page
// may come from a damaged or hostile file.
//
// Source of the format: "Database File Format", https://sqlite.org/fileformat2.html.
package btree
