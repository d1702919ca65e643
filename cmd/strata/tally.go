package main

import (
	"maps"
	"slices"

	"github.com/strata-nix/strata/activity"
)

// tally adds up activities by their type, as Nix does: what the running ones tell
// of themselves, what those that have ended have done, and how much somebody said
// there would be. The zero value has none.
type tally struct {
	running map[uint64]*runningActivity
	ended   map[activity.Type]amount
}

// amount is how much has been done of how much.
type amount struct{ done, expected uint64 }

type runningActivity struct {
	activity.Event
	amount
	// expects is how much there will be of other types under this one.
	expects map[activity.Type]uint64
}

func (t *tally) start(e activity.Event) {
	if t.running == nil {
		t.running, t.ended = map[uint64]*runningActivity{}, map[activity.Type]amount{}
	}
	t.running[e.ID] = &runningActivity{Event: e}
}

// stop ends an activity. When the last one has ended everything begins anew.
func (t *tally) stop(id uint64) {
	a := t.running[id]
	if a == nil {
		return
	}
	delete(t.running, id)
	c := t.ended[a.Type]
	t.ended[a.Type] = amount{c.done + a.done, c.expected + a.done} // no more of it will come
	if len(t.running) == 0 {
		clear(t.ended)
	}
}

// result takes what concerns numbers, and tells whether it did.
func (t *tally) result(id uint64, what activity.ResultType, fields []activity.Field) bool {
	a := t.running[id]
	if a == nil || len(fields) < 2 {
		return false
	}
	switch what {
	case activity.Progress:
		a.amount = amount{fields[0].Int, fields[1].Int}
		return true
	case activity.SetExpected:
		if a.expects == nil {
			a.expects = map[activity.Type]uint64{}
		}
		a.expects[activity.Type(fields[0].Int)] = fields[1].Int
		return true
	}
	return false
}

// of is the sum for one type.
func (t *tally) of(kind activity.Type) amount {
	c := t.ended[kind]
	var said uint64
	for _, a := range t.running {
		if a.Type == kind {
			c.done += a.done
			c.expected += a.expected
		}
		said += a.expects[kind]
	}
	c.expected = max(c.expected, said)
	return c
}

// inOrder gives the running ones as they were begun.
func (t *tally) inOrder() []*runningActivity {
	var all []*runningActivity
	for _, id := range slices.Sorted(maps.Keys(t.running)) {
		all = append(all, t.running[id])
	}
	return all
}
