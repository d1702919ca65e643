package main

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestCollectionIsAsUsualAfterTheFirst(t *testing.T) {
	usual := debug.SetGCPercent(100)
	defer debug.SetGCPercent(usual)
	t.Setenv("GOGC", "")
	delayCollection()
	percent := func() int {
		p := debug.SetGCPercent(firstHeap)
		debug.SetGCPercent(p)
		return p
	}
	for deadline := time.Now().Add(time.Minute); percent() == firstHeap; runtime.Gosched() {
		runtime.GC() // whose cleanups come somewhat later
		if time.Now().After(deadline) {
			t.Fatal("garbage is collected late for ever")
		}
	}
	if p := percent(); p != 100 {
		t.Errorf("GOGC is %d", p)
	}
}
