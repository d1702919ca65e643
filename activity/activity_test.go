package activity_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/strata-nix/strata/activity"
)

// record is a sink that writes down what it gets, with the ids in their order.
type record struct {
	lines []string
	ids   map[uint64]int
}

func (r *record) id(id uint64) int {
	if id == 0 {
		return 0
	}
	if r.ids[id] == 0 {
		r.ids[id] = len(r.ids) + 1
	}
	return r.ids[id]
}

func (r *record) add(format string, args ...any) {
	r.lines = append(r.lines, fmt.Sprintf(format, args...))
}

func (r *record) Log(l activity.Level, text string) { r.add("log %d %s", l, text) }
func (r *record) Start(e activity.Event) {
	r.add("start %d in %d: %d %d %s %v", r.id(e.ID), r.id(e.Parent), e.Level, e.Type, e.Text, e.Fields)
}
func (r *record) Stop(id uint64) { r.add("stop %d", r.id(id)) }
func (r *record) Result(id uint64, what activity.ResultType, f []activity.Field) {
	r.add("result %d %d %v", r.id(id), what, f)
}

func TestActivitiesNest(t *testing.T) {
	r := &record{ids: map[uint64]int{}}
	ctx := activity.With(t.Context(), r)
	outerCtx, outer := activity.Start(ctx, activity.Info, activity.CopyPaths, "copying")
	innerCtx, inner := activity.Start(outerCtx, activity.Talkative, activity.CopyPath, "one", activity.Text("p"), activity.Int(7))
	activity.Warnf(innerCtx, "slow %s", "disk")
	inner.Progress(1, 2, 3, 4)
	inner.Stop()
	_, second := activity.Start(outerCtx, activity.Info, activity.CopyPath, "two")
	second.Stop()
	outer.Stop()
	want := []string{
		"start 1 in 0: 3 103 copying []",
		"start 2 in 1: 4 100 one [{p 0 true} { 7 false}]",
		"log 1 warning: slow disk",
		"result 2 105 [{ 1 false} { 2 false} { 3 false} { 4 false}]",
		"stop 2",
		"start 3 in 1: 3 100 two []",
		"stop 3",
		"stop 1",
	}
	if !slices.Equal(r.lines, want) {
		t.Errorf("got  %q\nwant %q", r.lines, want)
	}
}

func TestWithoutSink(t *testing.T) {
	ctx, act := activity.Start(context.Background(), activity.Info, activity.Build, "x")
	act.Progress(1, 1, 0, 0)
	act.Stop()
	activity.Logf(ctx, activity.Error, "nobody hears this")
	if ctx != context.Background() {
		t.Error("the context was wrapped for nobody")
	}
}
