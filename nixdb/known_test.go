package nixdb

import (
	"testing"

	"github.com/strata-nix/strata/storepath"
)

func TestKnownIDsAreOfOneState(t *testing.T) {
	var k knownIDs
	one, two := dbState{of: new(handle)}, dbState{of: new(handle)}
	var paths []storepath.Path
	var ids []int64
	for i := range 3000 { // more than it begins with
		paths, ids = append(paths, viewPath(t, i)), append(ids, int64(i))
	}
	got := make([]int64, len(paths))
	if unknown := k.get(one, paths, got); unknown != len(paths) {
		t.Errorf("an empty one does not know %d of %d paths", unknown, len(paths))
	}
	k.put(one, paths, ids)
	// Number 0 is no number, and a set may be full.
	if unknown := k.get(one, paths, got); unknown < 1 || unknown > len(paths)/5 {
		t.Errorf("%d of %d paths are not known", unknown, len(paths))
	}
	for i, id := range got {
		if id != 0 && id != ids[i] {
			t.Fatalf("path %d has number %d", i, id)
		}
	}
	if unknown := k.get(two, paths, make([]int64, len(paths))); unknown != len(paths) {
		t.Error("it knows what was so in another state")
	}
	k.put(two, paths[:1], []int64{77})
	clear(got)
	if unknown := k.get(two, paths, got); unknown != len(paths)-1 || got[0] != 77 {
		t.Errorf("in another state %d are unknown, and the first is %d", unknown, got[0])
	}
	k.put(two, paths[1:2], []int64{1 << 40}) // more than it can hold
	k.forget()
	if k.get(two, paths, make([]int64, len(paths))) != len(paths) || k.sets != nil {
		t.Error("it has not forgotten")
	}
}

func TestKnownIDsAreBounded(t *testing.T) {
	var k knownIDs
	state := dbState{of: new(handle)}
	k.put(state, nil, nil)
	k.sets = make([]knownSet, maxKnown)
	for i := range k.sets {
		for j := range k.sets[i] {
			k.sets[i][j] = knownID{pathHash{byte(i), byte(j), 1}, 1}
		}
	}
	k.n = maxKnown * len(knownSet{})
	p := viewPath(t, 1)
	k.put(state, []storepath.Path{p}, []int64{5})
	got := make([]int64, 1)
	if k.get(state, []storepath.Path{p}, got) != 0 || got[0] != 5 || len(k.sets) != maxKnown {
		t.Errorf("a full one has %d sets, and knows the last as %d", len(k.sets), got[0])
	}
}

func TestNumbersForgetOnlyTheOldest(t *testing.T) {
	n := newNumbers()
	path := func(i int) storepath.Path { return viewPath(t, i) }
	for i := 1; i <= 3000; i++ {
		n.set(path(i), int64(i))
	}
	for i := 1; i <= 3000; i++ {
		if id := n.get(path(i)); id != int64(i) {
			t.Fatalf("path %d has number %d", i, id)
		}
	}
	if n.get(path(3001)) != 0 || n.forgot {
		t.Error("it knows what it was never told, or has forgotten something")
	}
	n.new.n = numbersHalf // as if it were full
	n.set(path(4000), 4000)
	if n.get(path(7)) != 7 || n.forgot || n.new.n != 2 {
		t.Errorf("an old path is not known, or was not used again: %d of the new", n.new.n)
	}
	n.new.n = numbersHalf
	n.set(path(4001), 4001)
	if n.get(path(8)) != 0 || n.get(path(7)) != 7 || !n.forgot {
		t.Error("what was not used for long is still known, or what was used is not")
	}
	n.set(path(5000), 1<<33)
	if n.get(path(5000)) != 0 {
		t.Error("a number that it has no room for is known as another")
	}
}

func BenchmarkKnownIDs(b *testing.B) {
	var k knownIDs
	state := dbState{of: new(handle)}
	var paths []storepath.Path
	var ids []int64
	for i := range 20000 {
		paths, ids = append(paths, viewPath(b, i)), append(ids, int64(i+1))
	}
	k.put(state, paths, ids)
	got := make([]int64, 100)
	at := 0
	for b.Loop() {
		clear(got)
		k.get(state, paths[at:at+100], got)
		at = (at + 100) % len(paths)
	}
}
