package builder

import (
	"context"
	"sync"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/substitute"
)

// progress tells how far a request is, in the three activities that Nix has for
// it.
type progress struct {
	builds struct{ done, expected, running, failed uint64 } // of the request's goroutine

	realise, building, copying *activity.Activity

	mu    sync.Mutex
	past  substitute.Count // of calls that are over
	calls map[*substitute.Count]bool
	last  [4]uint64
}

// start begins the activities; what is started under the context lies below the
// first.
func (p *progress) start(ctx context.Context) context.Context {
	ctx, p.realise = activity.Start(ctx, activity.Error, activity.Realise, "")
	_, p.building = activity.Start(ctx, activity.Error, activity.Builds, "")
	_, p.copying = activity.Start(ctx, activity.Error, activity.CopyPaths, "")
	p.calls = map[*substitute.Count]bool{}
	return ctx
}

func (p *progress) stop() {
	p.copying.Stop()
	p.building.Stop()
	p.realise.Stop()
}

// report tells how far the builds are, if that has changed.
func (p *progress) report(r *request) {
	b := p.builds
	now := [4]uint64{b.done, b.expected + b.done, b.running, b.failed}
	if now != p.last {
		p.last = now
		p.building.Progress(now[0], now[1], now[2], now[3])
	}
}

// substitution adds up what several calls of a substituter tell.
func (p *progress) substitution() (observe func(substitute.Count), stop func()) {
	mine := new(substitute.Count)
	p.mu.Lock()
	p.calls[mine] = true
	p.mu.Unlock()
	observe = func(c substitute.Count) {
		p.mu.Lock()
		defer p.mu.Unlock()
		*mine = c
		p.tellSubstitutions()
	}
	stop = func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.calls, mine)
		mine.Running = 0
		p.past = sum(p.past, *mine)
	}
	return observe, stop
}

func (p *progress) tellSubstitutions() {
	all := p.past
	for c := range p.calls {
		all = sum(all, *c)
	}
	p.copying.Progress(all.Done, all.Expected, all.Running, all.Failed)
	p.realise.Result(activity.SetExpected, activity.Int(uint64(activity.FileTransfer)), activity.Int(all.Download))
	p.realise.Result(activity.SetExpected, activity.Int(uint64(activity.CopyPath)), activity.Int(all.Nar))
}

func sum(a, b substitute.Count) substitute.Count {
	return substitute.Count{
		Done: a.Done + b.Done, Expected: a.Expected + b.Expected, Running: a.Running + b.Running, Failed: a.Failed + b.Failed,
		Download: a.Download + b.Download, Nar: a.Nar + b.Nar,
	}
}
