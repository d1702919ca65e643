package nixdb

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

func TestPathSort(t *testing.T) {
	for _, c := range []struct{ n, limit int }{{0, 100}, {1, 1}, {1000, 1 << 20}, {1000, 100}, {3000, 5000}} {
		s := pathSort{dir: t.TempDir(), limit: c.limit}
		rnd := rand.New(rand.NewPCG(1, 2))
		want := map[string]int{}
		for i := range c.n {
			// Many begin alike, some are equal, and one is the beginning of another.
			p := fmt.Sprintf("%0*d", 7+rnd.IntN(3), rnd.IntN(c.n))
			want[fmt.Sprint(p, " ", i)]++
			if err := s.add(p, int64(i)); err != nil {
				t.Fatal(err)
			}
		}
		n, last, lastID := 0, []byte(nil), int64(-1)
		for p, err := range s.sorted() {
			if err != nil {
				t.Fatal(err)
			}
			if order := bytes.Compare(last, p.path); order > 0 || order == 0 && p.id <= lastID {
				t.Fatalf("%s %d after %s %d", p.path, p.id, last, lastID)
			}
			want[fmt.Sprint(string(p.path), " ", p.id)]--
			last, lastID = bytes.Clone(p.path), p.id
			n++
		}
		s.close()
		for p, left := range want {
			if left != 0 {
				t.Fatalf("%s came %d times too few", p, left)
			}
		}
		if n != c.n {
			t.Errorf("%d of %d", n, c.n)
		}
	}
}
