package btree_test

import (
	"errors"
	"fmt"
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

// image is a database file in memory.
type image struct {
	bytes []byte
	size  int
}

func (i *image) Count() int { return len(i.bytes) / i.size }

func (i *image) Page(n uint32) ([]byte, error) {
	end := int(n) * i.size
	if n == 0 || end > len(i.bytes) {
		return nil, fmt.Errorf("%w: page %d", btree.ErrFormat, n)
	}
	// Others may use the memory: what was got before must not be used any more.
	return slices.Clone(i.bytes[end-i.size : end]), nil
}

// build makes a database and gives its file and the root pages in it.
func build(t testing.TB, pageSize int, statements ...string) (*image, map[string]uint32) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "db")
	c, err := sqlite.OpenConn(file, sqlite.OpenReadWrite|sqlite.OpenCreate)
	if err != nil {
		t.Fatal(err)
	}
	roots := map[string]uint32{}
	for _, sql := range append([]string{fmt.Sprintf("pragma page_size = %d", pageSize)}, statements...) {
		if err := sqlitex.ExecuteTransient(c, sql, nil); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	err = sqlitex.ExecuteTransient(c, "select name, rootpage from sqlite_master", &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
		roots[s.ColumnText(0)] = uint32(s.ColumnInt64(1))
		return nil
	}})
	if err = errors.Join(err, c.Close()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return &image{b, pageSize}, roots
}

const numbers = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 5000) "

// samples has rows of all lengths, some on several pages, with gaps between numbers.
var samples = []string{
	"create table t (id integer primary key, name text, n integer, other)",
	"create index by_name on t (name)",
	"create index by_n on t (n)",
	numbers + "insert into t select i * 3, printf('%032d-name', i * 7919 % 5000), (i * i) % 97 - 40, " +
		"case i % 4 when 0 then null when 1 then printf('%.*c', i, 'x') when 2 then 1.5 else i * 100000000000 end from n",
}

func open(t testing.TB, pageSize int, statements ...string) (f *btree.File, root func(string) btree.Tree) {
	t.Helper()
	src, roots := build(t, pageSize, statements...)
	f, err := btree.Open(src)
	if err != nil {
		t.Fatal(err)
	}
	return f, func(name string) btree.Tree { return f.Tree(roots[name]) }
}

func TestRowsOfATable(t *testing.T) {
	testenv.LongWithRace(t)
	for _, size := range []int{512, 4096, 65536} {
		_, root := open(t, size, samples...)
		table := root("t")
		for i := range int64(5002) {
			r, ok, err := table.Row(i * 3)
			if err != nil || ok != (i >= 1 && i <= 5000) {
				t.Fatalf("page size %d: row %d: %v, %v", size, i*3, ok, err)
			}
			if _, ok, err := table.Row(i*3 + 1); ok || err != nil {
				t.Fatalf("page size %d: row %d: %v, %v", size, i*3+1, ok, err)
			}
			if i >= 1 && i <= 5000 {
				checkRow(t, i, r)
			}
		}
	}
}

// checkRow compares a row with what samples puts there.
func checkRow(t *testing.T, i int64, r btree.Record) {
	t.Helper()
	var v [5]btree.Value
	n, err := r.Columns(v[:])
	if err != nil || n != 4 {
		t.Fatalf("row %d: %d columns, %v", i, n, err)
	}
	if name := fmt.Sprintf("%032d-name", i*7919%5000); v[0].Kind != btree.Null || string(v[1].Text) != name || v[2].Int != i*i%97-40 {
		t.Errorf("row %d is %v", i, v)
	}
	want := []btree.Kind{btree.Null, btree.TextKind, btree.Float, btree.Integer}[i%4]
	if v[3].Kind != want || want == btree.TextKind && string(v[3].Text) != strings.Repeat("x", int(i)) || want == btree.Integer && v[3].Int != i*100000000000 {
		t.Errorf("row %d has %v", i, v[3])
	}
}

func TestRowsInOrderFromAnywhere(t *testing.T) {
	testenv.LongWithRace(t)
	_, root := open(t, 512, samples...)
	for _, after := range []int64{-5, 0, 1, 3, 4, 7499, 14999, 15000, 20000} {
		next := max(after/3+1, 1)
		err := root("t").Rows(after, func(id int64, r btree.Record) (bool, error) {
			if id != next*3 {
				t.Fatalf("after %d: row %d where %d comes next", after, id, next*3)
			}
			checkRow(t, next, r)
			next++
			return true, nil
		})
		if err != nil || next != max(5001, after/3+1) {
			t.Errorf("after %d: ended before %d: %v", after, next*3, err)
		}
	}
	seen := 0
	if err := root("t").Rows(0, func(int64, btree.Record) (bool, error) { seen++; return seen < 300, nil }); err != nil || seen != 300 {
		t.Errorf("%d rows were visited, %v", seen, err)
	}
	stop := errors.New("stop")
	if err := root("t").Rows(0, func(int64, btree.Record) (bool, error) { return true, stop }); !errors.Is(err, stop) {
		t.Errorf("the visitor's error became %v", err)
	}
}

func TestEntriesOfAnIndex(t *testing.T) {
	testenv.LongWithRace(t)
	for _, size := range []int{512, 4096} {
		_, root := open(t, size, samples...)
		for i := range int64(5001) {
			var got []int64
			err := root("by_name").Scan(btree.Text(fmt.Sprintf("%032d-name", i)), func(r btree.Record) (bool, error) {
				var v [2]btree.Value
				_, err := r.Columns(v[:])
				got = append(got, v[1].Int)
				return true, err
			})
			if err != nil || (len(got) == 1) != (i < 5000) {
				t.Fatalf("page size %d: name %d: %v, %v", size, i, got, err)
			}
		}
		for n := int64(-45); n < 60; n++ {
			want, got := []int64(nil), []int64(nil)
			for i := int64(1); i <= 5000; i++ {
				if i*i%97-40 == n {
					want = append(want, i*3)
				}
			}
			err := root("by_n").Scan(btree.Int(n), func(r btree.Record) (bool, error) {
				var v [2]btree.Value
				_, err := r.Columns(v[:])
				got = append(got, v[1].Int)
				return true, err
			})
			if err != nil || !slices.Equal(got, want) {
				t.Fatalf("page size %d: %d: %d entries where there are %d, %v", size, n, len(got), len(want), err)
			}
		}
	}
}

func TestAllEntriesOfAnIndex(t *testing.T) {
	testenv.LongWithRace(t)
	for _, size := range []int{512, 4096} {
		_, root := open(t, size, samples...)
		for _, name := range []string{"by_n", "by_name"} {
			var all, scanned []int64
			visit := func(to *[]int64) func(r btree.Record) (bool, error) {
				return func(r btree.Record) (bool, error) {
					var v [2]btree.Value
					_, err := r.Columns(v[:])
					*to = append(*to, v[1].Int)
					var n [2]int64
					if ok := r.Ints(n[:]); ok != (v[0].Kind == btree.Integer) || ok && (n[0] != v[0].Int || n[1] != v[1].Int) {
						t.Errorf("%s: %v are read as %v, %t", name, v, n, ok)
					}
					return true, err
				}
			}
			err := root(name).All(visit(&all))
			if err = errors.Join(err, root(name).Scan(func(btree.Value) int { return 0 }, visit(&scanned))); err != nil || !slices.Equal(all, scanned) {
				t.Errorf("page size %d: %s: %d entries, of which a scan has %d, %v", size, name, len(all), len(scanned), err)
			}
			if n, err := root(name).Len(); err != nil || n != len(all) || n == 0 {
				t.Errorf("page size %d: %s has %d entries, and %d were counted, %v", size, name, len(all), n, err)
			}
			seen := 0
			if err := root(name).All(func(btree.Record) (bool, error) { seen++; return seen < 7, nil }); err != nil || seen != 7 {
				t.Errorf("it went on for %d entries, %v", seen, err)
			}
		}
	}
}

func TestEntriesFromATextOn(t *testing.T) {
	testenv.LongWithRace(t)
	_, root := open(t, 512, samples...)
	next := 4321
	err := root("by_name").Scan(btree.TextFrom("00000000000000000000000000004321"), func(r btree.Record) (bool, error) {
		var v [1]btree.Value
		_, err := r.Columns(v[:])
		if want := fmt.Sprintf("%032d-name", next); string(v[0].Text) != want {
			t.Fatalf("%q where %q comes next", v[0].Text, want)
		}
		next++
		return true, err
	})
	if err != nil || next != 5000 {
		t.Errorf("ended before %d: %v", next, err)
	}
}

func TestMixedValuesAreInOrder(t *testing.T) {
	_, root := open(t, 512, "create table t (v)", "create index i on t (v)",
		"insert into t values (null), (-3), (2), (2.5), ('a'), (''), ('b'), (x'00'), (0), (1), (9223372036854775807)")
	for text, want := range map[string]int{"": 1, "a": 1, "b": 1, "c": 0} {
		n := 0
		if err := root("i").Scan(btree.Text(text), func(btree.Record) (bool, error) { n++; return true, nil }); err != nil || n != want {
			t.Errorf("%q is there %d times, %v", text, n, err)
		}
	}
	for number, want := range map[int64]int{-3: 1, 0: 1, 1: 1, 2: 1, 3: 0, 9223372036854775807: 1} {
		n := 0
		if err := root("i").Scan(btree.Int(number), func(btree.Record) (bool, error) { n++; return true, nil }); err != nil || n != want {
			t.Errorf("%d is there %d times, %v", number, n, err)
		}
	}
}

func TestWhatIsNotKnownIsRefused(t *testing.T) {
	long, roots := build(t, 512, "create table t (v text)", "create index i on t (v)", "insert into t values (printf('%.*c', 3000, 'x'))")
	f, err := btree.Open(long)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Tree(roots["i"]).Scan(btree.Text("x"), nil); !errors.Is(err, btree.ErrUnsupported) {
		t.Errorf("an index entry on several pages: %v", err)
	}
	wide, _ := build(t, 512, "pragma encoding = 'UTF-16'", "create table t (v text)")
	if _, err := btree.Open(wide); !errors.Is(err, btree.ErrUnsupported) {
		t.Errorf("UTF-16: %v", err)
	}
	if err := f.Tree(roots["t"]).Scan(btree.Text("x"), nil); !errors.Is(err, btree.ErrFormat) {
		t.Errorf("a table as an index: %v", err)
	}
}

func FuzzTree(f *testing.F) {
	src, roots := build(f, 512, "create table t (id integer primary key, name text)", "create index i on t (name)",
		"with recursive n(i) as (select 1 union all select i + 1 from n where i < 60) insert into t select i, printf('name %d', i) from n")
	f.Add(src.bytes, roots["t"], roots["i"])
	f.Add(src.bytes[:1024], uint32(2), uint32(1))
	f.Fuzz(func(t *testing.T, b []byte, table, index uint32) {
		src := &image{b, 512}
		file, err := btree.Open(src)
		if err != nil {
			return
		}
		visit := func(r btree.Record) (bool, error) {
			var v [5]btree.Value
			_, err := r.Columns(v[:])
			return true, err
		}
		_, _ = file.SchemaCookie()
		if r, ok, err := file.Tree(table).Row(30); ok && err == nil {
			_, _ = visit(r)
		}
		_ = file.Tree(table).Rows(3, func(_ int64, r btree.Record) (bool, error) { return visit(r) })
		_ = file.Tree(index).Scan(btree.Text("name 7"), visit)
		_ = file.Tree(index).Scan(btree.Int(7), visit)
		_, _ = file.Tree(index).Len()
		_ = file.Tree(index).All(func(r btree.Record) (bool, error) {
			var n [2]int64
			_ = r.Ints(n[:])
			return visit(r)
		})
	})
}
