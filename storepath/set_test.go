package storepath

import (
	"slices"
	"testing"
)

func TestMissing(t *testing.T) {
	var ps []Path
	for _, name := range []string{"a", "b", "c"} {
		p, err := ParseBase("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-" + name)
		if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
	if got := NewSet(ps[1]).Missing([]Path{ps[2], ps[1], ps[0]}); !slices.Equal(got, []Path{ps[2], ps[0]}) {
		t.Errorf("missing %v", got)
	}
}
