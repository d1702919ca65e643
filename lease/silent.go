package lease

import (
	"context"
	"iter"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/objstore"
)

// silence is after how long it is told that a place has not answered yet: it may be on NFS, whose
// server is gone, and then nothing else ever tells what is waited for.
const silence = 10 * time.Second

// asking tells, if a request takes long, what is waited for. over is called at its end.
func (p *Place) asking(ctx context.Context, name string) (over func() bool) {
	return time.AfterFunc(silence, func() {
		activity.Logf(ctx, activity.Info, "waiting for '%s' to answer (%s)...", p.name, name)
	}).Stop
}

// leaving gives what f does, or the cause of ctx's end without waiting for f any longer: a call of a
// file system whose server is silent cannot be interrupted. It is for what may as well happen later
// or not at all. A lease is not written so: an old one would take the place of a newer one.
func leaving[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	done := make(chan answer, 1)
	go func() {
		v, err := f()
		done <- answer{v, err}
	}()
	select {
	case a := <-done:
		return a.value, a.err
	case <-ctx.Done():
		var zero T
		return zero, context.Cause(ctx)
	}
}

// list lists a directory of the place, and ends with ctx, too.
func (p *Place) list(ctx context.Context, dir string) iter.Seq2[objstore.Info, error] {
	type item struct {
		info objstore.Info
		err  error
	}
	return func(yield func(objstore.Info, error) bool) {
		defer p.asking(ctx, dir)()
		items, stop := make(chan item), make(chan struct{})
		defer close(stop)
		go func() {
			defer close(items)
			for info, err := range p.objects.List(ctx, dir) {
				select {
				case items <- item{info, err}:
				case <-stop:
					return
				}
			}
		}()
		for {
			select {
			case i, more := <-items:
				if !more || !yield(i.info, i.err) {
					return
				}
			case <-ctx.Done():
				yield(objstore.Info{}, context.Cause(ctx))
				return
			}
		}
	}
}
