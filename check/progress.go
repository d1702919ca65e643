package check

import (
	"context"
	"sync"

	"github.com/strata-nix/strata/activity"
)

// progress tells how many objects and bytes have been read of how many.
type progress struct {
	objects, bytes *activity.Activity

	mu        sync.Mutex
	now, all  amount
	announced amount
}

// amount is a number of objects, and the bytes of their archives.
type amount struct{ objects, bytes uint64 }

// It is told after so much more.
const (
	tellBytes   = 1 << 20
	tellObjects = 64
)

func (x *examination) newProgress(ctx context.Context) *progress {
	p := &progress{}
	ctx, p.objects = activity.Start(ctx, activity.Info, activity.VerifyPaths, "")
	_, p.bytes = activity.Start(ctx, activity.Info, activity.HashContents, "")
	for i := range x.Layers {
		if !x.listed(i) {
			continue
		}
		if st, err := x.Layers[i].DB.Stats(ctx); err == nil {
			p.all.objects += uint64(st.Paths)  //nolint:gosec // a count
			p.all.bytes += uint64(st.NarBytes) //nolint:gosec // a sum of sizes
		}
	}
	return p
}

// done adds what has been read, or was by an earlier run.
func (p *progress) done(more amount) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now.objects += more.objects
	p.now.bytes += more.bytes
	if p.now.bytes-p.announced.bytes < tellBytes && p.now.objects-p.announced.objects < tellObjects {
		return
	}
	p.announced = p.now
	p.objects.Progress(p.now.objects, p.all.objects, 0, 0)
	p.bytes.Progress(p.now.bytes, p.all.bytes, 0, 0)
}

func (p *progress) stop() {
	p.bytes.Stop()
	p.objects.Stop()
}
