package worker

import (
	"path/filepath"
	"testing"
)

func TestTable(t *testing.T) {
	last := uint64(0)
	for _, o := range ops {
		if o.number <= last {
			t.Errorf("%s does not come after number %d", o.name, last)
		}
		last = o.number
		if opByNumber(o.number).name != o.name || opName(o.number) != o.name {
			t.Errorf("number %d leads to %s, not %s", o.number, opName(o.number), o.name)
		}
		if o.serve == nil && !o.obsolete {
			t.Errorf("%s is not served and not obsolete", o.name)
		}
		if o.serve == nil {
			continue
		}
		if golden, err := filepath.Glob(filepath.Join("testdata", "conversations", o.name+"*.txt")); err != nil || len(golden) == 0 {
			t.Errorf("there is no conversation about %s: %v", o.name, err)
		}
	}
	for _, n := range []uint64{0, 2, 15, 17, 48, 1 << 63} {
		if opByNumber(n) != nil {
			t.Errorf("number %d is an operation", n)
		}
	}
}
