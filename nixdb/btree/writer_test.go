package btree_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nixdb/btree"
)

// written is a table and an index that SQLite made, and a Writer filled.
type written struct {
	image *image
	w     *btree.Writer
	roots map[string]uint32
}

var emptyTree = []string{
	"create table t (id integer primary key, name text, n integer, other text)",
	"create index by_name on t (name)",
}

var emptyDatabases = map[int]func() (*image, map[string]uint32){}

// emptyDatabase is one with emptyTree, made once for each size of pages.
func emptyDatabase(t testing.TB, pageSize int) (*image, map[string]uint32) {
	t.Helper()
	made := emptyDatabases[pageSize]
	if made == nil {
		empty, roots := build(t, pageSize, emptyTree...)
		made = func() (*image, map[string]uint32) { return empty, roots }
		emptyDatabases[pageSize] = made
	}
	return made()
}

func newWritten(t testing.TB, pageSize int) *written {
	t.Helper()
	f := &written{}
	empty, roots := emptyDatabase(t, pageSize)
	f.image, f.roots = &image{slices.Clone(empty.bytes), pageSize}, roots
	put := func(n uint32, page []byte) error {
		end := int(n) * pageSize
		if len(f.image.bytes) < end {
			f.image.bytes = append(f.image.bytes, make([]byte, end-len(f.image.bytes))...)
		}
		copy(f.image.bytes[end-pageSize:], page)
		return nil
	}
	var err error
	if f.w, err = btree.NewWriter(f.image.bytes[:pageSize], put); err != nil {
		t.Fatal(err)
	}
	return f
}

// treeRow is what is in a row of the table.
type treeRow struct {
	id    int64
	name  string
	n     int64
	other string // "" for null
}

// fill writes rows, which are sorted by id, and the index of their names.
func (f *written) fill(t testing.TB, rows []treeRow) {
	t.Helper()
	var r btree.RecordWriter
	table := f.w.Table(f.roots["t"])
	for _, row := range rows {
		r.Reset()
		r.Null()
		r.Text(row.name)
		r.Int(row.n)
		if row.other == "" {
			r.Null()
		} else {
			r.Text(row.other[:1], row.other[1:])
		}
		if err := table.Row(row.id, r.Record()); err != nil {
			t.Fatal(err)
		}
	}
	byName := slices.Clone(rows)
	slices.SortFunc(byName, func(a, b treeRow) int { return strings.Compare(a.name, b.name) })
	index := f.w.Index(f.roots["by_name"])
	for _, row := range byName {
		r.Reset()
		r.Text(row.name)
		r.Int(row.id)
		if err := index.Entry(r.Record()); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(table.Finish(), index.Finish(), f.w.Finish()); err != nil {
		t.Fatal(err)
	}
	if n := len(f.image.bytes) / f.image.size; n != int(f.w.Count()) {
		t.Errorf("the file has %d pages, and says %d", n, f.w.Count())
	}
}

// compare has SQLite look at the file, and read it.
func (f *written) compare(t testing.TB, rows []treeRow) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(file, f.image.bytes, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := sqlite.OpenConn(file, sqlite.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	query := func(sql string, row func(*sqlite.Stmt) error) {
		t.Helper()
		if err := sqlitex.ExecuteTransient(c, sql, &sqlitex.ExecOptions{ResultFunc: row}); err != nil {
			t.Fatalf("%d rows: %s: %v", len(rows), sql, err)
		}
	}
	query("pragma synchronous = off", nil)
	query("pragma journal_mode = off", nil)
	healthy := func(when string) {
		t.Helper()
		query("pragma integrity_check", func(s *sqlite.Stmt) error {
			if s.ColumnText(0) != "ok" {
				t.Errorf("%d rows, %s: %s", len(rows), when, s.ColumnText(0))
			}
			return nil
		})
	}
	healthy("as written")
	i := 0
	query("select id, name, n, coalesce(other, '') from t order by id", func(s *sqlite.Stmt) error {
		got := treeRow{s.ColumnInt64(0), s.ColumnText(1), s.ColumnInt64(2), s.ColumnText(3)}
		if i >= len(rows) || got != rows[i] {
			t.Fatalf("row %d of %d is %.300v", i, len(rows), got)
		}
		i++
		return nil
	})
	if i != len(rows) {
		t.Errorf("%d rows of %d", i, len(rows))
	}
	// SQLite can go on with it.
	query("insert into t (name, n) select name || '+', n from t where id % 3 = 0", nil)
	query("delete from t where id % 2 = 0", nil)
	healthy("after changes")
}

// treeRows makes rows of all lengths that there may be, whose names are not in the order of their numbers.
func treeRows(n, longestName, longest int) (rows []treeRow) {
	numbers := []int64{0, 1, 2, -1, 127, 128, -128, -129, 32767, 32768, 1<<23 - 1, 1 << 23, -1 << 23, -1<<23 - 1, 1<<31 - 1, 1 << 31,
		-1 << 31, -1<<31 - 1, 1<<47 - 1, 1 << 47, -1 << 47, -1<<47 - 1, math.MaxInt64, math.MinInt64}
	for i := range n {
		name := fmt.Sprintf("%08x", uint32(i)*2654435761)
		name += strings.Repeat("n", (i*7)%max(1, longestName-len(name)))
		rows = append(rows, treeRow{id: int64(i*i/7 + i + 1), name: name, n: numbers[i%len(numbers)], other: strings.Repeat("o", i*31%(longest+1))})
	}
	return rows
}

func TestTreesOfAllSizes(t *testing.T) {
	testenv.LongWithRace(t)
	for n := range 150 {
		f := newWritten(t, 512)
		rows := treeRows(n, 9, 1)
		f.fill(t, rows)
		f.compare(t, rows)
	}
}

func TestTreesOfAllPageSizes(t *testing.T) {
	testenv.LongWithRace(t)
	counts := []int{1000, 5011}
	if testing.Short() {
		counts = counts[:1] // under the race detector they take ten times as long
	}
	for _, size := range []int{512, 1024, 4096, 32768, 65536} {
		for _, n := range counts {
			f := newWritten(t, size)
			// The longest index entries that fit, and rows on several pages.
			rows := treeRows(n, (size-12)*64/255-23-12, min(3*size, 4<<20/n))
			f.fill(t, rows)
			f.compare(t, rows)
		}
	}
}

func TestLongIndexEntriesAreRefused(t *testing.T) {
	f := newWritten(t, 512)
	var r btree.RecordWriter
	r.Text(strings.Repeat("x", 512))
	if err := f.w.Index(f.roots["by_name"]).Entry(r.Record()); !errors.Is(err, btree.ErrUnsupported) {
		t.Errorf("got %v", err)
	}
}

func TestWhatIsNotForWriters(t *testing.T) {
	f := newWritten(t, 512)
	put := func(uint32, []byte) error { return nil }
	for what, change := range map[string]func([]byte){
		"vacuumed by itself":  func(p []byte) { binary.BigEndian.PutUint32(p[52:], 1) },
		"of an old format":    func(p []byte) { binary.BigEndian.PutUint32(p[44:], 1) },
		"of unknown size":     func(p []byte) { binary.BigEndian.PutUint32(p[92:], 77) },
		"of another encoding": func(p []byte) { binary.BigEndian.PutUint32(p[56:], 2) },
	} {
		page := slices.Clone(f.image.bytes[:512])
		change(page)
		if _, err := btree.NewWriter(page, put); !errors.Is(err, btree.ErrUnsupported) {
			t.Errorf("a database %s: %v", what, err)
		}
	}
	if _, err := btree.NewWriter(nil, put); !errors.Is(err, btree.ErrFormat) {
		t.Errorf("nothing: %v", err)
	}
}

// The page by which SQLite locks a file is left out.
func TestPageOfLocksIsLeftOut(t *testing.T) {
	f := newWritten(t, 65536)
	page := slices.Clone(f.image.bytes[:65536])
	const locks = 1<<30/65536 + 1
	binary.BigEndian.PutUint32(page[28:], locks-2)
	var numbers []uint32
	w, err := btree.NewWriter(page, func(n uint32, _ []byte) error { numbers = append(numbers, n); return nil })
	if err != nil {
		t.Fatal(err)
	}
	table := w.Table(2)
	var r btree.RecordWriter
	r.Text(strings.Repeat("x", 60000))
	for id := range int64(3) {
		if err := table.Row(id, r.Record()); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(table.Finish(), w.Finish()); err != nil {
		t.Fatal(err)
	}
	if want := []uint32{locks - 1, locks + 1, locks + 2, 2, 1}; !slices.Equal(numbers, want) {
		t.Errorf("pages %v, not %v", numbers, want)
	}
}

// FuzzWriter makes rows of lengths that the input says, and lets SQLite check them.
func FuzzWriter(f *testing.F) {
	f.Fuzz(func(t *testing.T, lengths []byte) {
		w := newWritten(t, 512)
		var rows []treeRow
		for i, b := range lengths[:min(len(lengths), 2000)] {
			rows = append(rows, treeRow{
				id: int64(i) + 1 + int64(b)<<32*int64(i), name: fmt.Sprintf("%05d%s", i*7919%100000, strings.Repeat("x", int(b)%75)),
				n: int64(b), other: strings.Repeat("y", int(b)*int(b)%2000),
			})
		}
		rows = slices.DeleteFunc(rows, func(r treeRow) bool { return r.id <= 0 })
		slices.SortFunc(rows, func(a, b treeRow) int { return int(min(max(a.id-b.id, -1), 1)) })
		rows = slices.CompactFunc(rows, func(a, b treeRow) bool { return a.id == b.id })
		w.fill(t, rows)
		w.compare(t, rows)
	})
}

func BenchmarkWriter(b *testing.B) {
	var r btree.RecordWriter
	page := slices.Clone(newWritten(b, 4096).image.bytes[:4096])
	b.Run("index of two numbers", func(b *testing.B) {
		w, err := btree.NewWriter(page, func(uint32, []byte) error { return nil })
		if err != nil {
			b.Fatal(err)
		}
		index, n := w.Index(2), int64(0)
		for b.Loop() {
			n++
			r.Reset()
			r.Int(n / 5)
			r.Int(n)
			if err := index.Entry(r.Record()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
