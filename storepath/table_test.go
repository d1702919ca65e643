package storepath

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/strata-nix/strata/nixhash"
)

func TestTable(t *testing.T) {
	var table Table
	if table.Find(Path{}) != -1 || table.Find(numbered(t, 1)) != -1 {
		t.Error("something is in an empty table")
	}
	const n = 30_000 // several chunks
	for i := range n {
		if err := table.Append([]byte(numbered(t, i).Base())); err != nil {
			t.Fatal(err)
		}
	}
	if err := table.Append([]byte(numbered(t, 7).Base())); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "x", numbered(t, 1).HashPart(), numbered(t, 1).Base() + "/", numbered(t, 1).HashPart() + "-" + strings.Repeat("x", 1000)} {
		if err := table.Append([]byte(bad)); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	table.Freeze()
	if table.Len() != n+1 || len(table.chunks) < 2 {
		t.Errorf("%d paths in %d chunks", table.Len(), len(table.chunks))
	}
	for i := range n {
		p := numbered(t, i)
		if table.At(i) != p || table.Find(p) != i || table.FindBase([]byte(p.Base())) != i {
			t.Fatalf("%d: %s, found at %d", i, table.At(i), table.Find(p))
		}
	}
	var bases [][]byte
	for i := range n + 100 {
		bases = append(bases, []byte(numbered(t, i).Base()))
	}
	bases = append(bases, nil, []byte("no path"))
	numbers := make([]int32, len(bases))
	table.FindBases(bases, numbers)
	for i, got := range numbers {
		if want := table.FindBase(bases[i]); int(got) != want {
			t.Fatalf("%d of many is found at %d, and not at %d", i, got, want)
		}
	}
	new(Table).FindBases(bases[:1], numbers)
	if numbers[0] != -1 {
		t.Error("something of many is in an empty table")
	}
	if got := max(table.Find(numbered(t, n)), table.FindBase([]byte("no path")), table.FindBase(nil)); got != -1 {
		t.Errorf("what was never put in is at %d", got)
	}
}

// numbered is a path whose name is as long as the number says.
func numbered(t *testing.T, i int) Path {
	t.Helper()
	hash := nixhash.Of(nixhash.SHA1, fmt.Sprint(i))
	p, err := FromParts(hash.Bytes(), fmt.Sprintf("n%d%s", i, strings.Repeat("x", i%190)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}
