package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"sync"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// firstHeap is GOGC until garbage was collected for the first time: that is when there
// are 16 MiB, instead of 4.
const firstHeap = 400

// closureOf is store.Closure.
func closureOf(ctx context.Context, st store.Store, paths []storepath.Path) ([]*store.PathInfo, error) {
	delayCollection()
	return store.Closure(ctx, st, paths)
}

// delayCollection is for commands that fill some MiB and are done: to look for garbage
// until then is in vain, and takes a sixth of their time. Afterwards all is as usual. Who
// has set GOGC is obeyed.
var delayCollection = sync.OnceFunc(func() {
	if os.Getenv("GOGC") != "" {
		return
	}
	usual := debug.SetGCPercent(firstHeap)
	runtime.AddCleanup(new([64]byte), func(percent int) { debug.SetGCPercent(percent) }, usual)
})
