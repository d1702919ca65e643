package storepath

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestListGivesBackWhatWasAdded(t *testing.T) {
	var l List
	if l.Len() != 0 || len(slices.Collect(l.All())) != 0 {
		t.Error("an empty list is not empty")
	}
	var want []Path
	for i := range 20_000 { // several chunks
		p, err := ParseBase(fmt.Sprintf("%032d-%s", i, strings.Repeat("x", 1+i%MaxNameLen)))
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, p)
		l.Add(p)
	}
	if l.Len() != len(want) || !slices.Equal(slices.Collect(l.All()), want) {
		t.Error("the list has other paths than were added")
	}
	for range l.All() {
		break // in the middle
	}
}
