package lease

import (
	"context"
	"time"

	"github.com/strata-nix/strata/activity"
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
