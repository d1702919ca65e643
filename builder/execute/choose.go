package execute

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/builder/sandbox"
	"github.com/strata-nix/strata/store"
)

// abilities are what this machine can do for builds, once it can isolate them.
var abilities struct {
	sync.Mutex
	known sandbox.Abilities
	sure  bool
}

// probe asks what this machine can do. That it cannot isolate builds may change, and
// is asked again.
func probe(ctx context.Context) sandbox.Abilities {
	abilities.Lock()
	defer abilities.Unlock()
	if !abilities.sure {
		abilities.known = sandbox.Probe(ctx)
		abilities.sure = abilities.known.Isolation == nil && ctx.Err() == nil
	}
	return abilities.known
}

// chooseSandbox decides whether the builder is isolated.
func (b *build) chooseSandbox(ctx context.Context) error {
	drv := b.dir.Print(b.job.DrvPath)
	switch b.o.Sandbox {
	case Sandboxed:
		if b.attrs.NoChroot {
			return failf(store.MiscFailure, "derivation '%s' has '__noChroot' set, but that's not allowed when 'sandbox' is 'true'", drv)
		}
		b.boxed = true
	case Relaxed:
		b.boxed = b.kind.IsSandboxed() && !b.attrs.NoChroot
	case Unboxed:
	}
	// Only in a sandbox is the store where its paths say that it is.
	diverted := b.s.RealDir() != string(b.dir)
	b.boxed = b.boxed || diverted
	if b.job.Drv.IsBuiltin() {
		b.apart = true
		return nil
	}
	if b.boxed {
		able := probe(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if able.Isolation != nil {
			if err := b.fallBack(able, diverted); err != nil {
				return err
			}
		}
	}
	if !b.boxed && b.attrs.UIDRange() {
		return failf(store.MiscFailure, "feature 'uid-range' is only supported in sandboxed builds")
	}
	b.apart = b.boxed
	return nil
}

// fallBack goes without a sandbox on a machine that cannot have one, if it may.
func (b *build) fallBack(able sandbox.Abilities, diverted bool) error {
	if diverted {
		return fmt.Errorf("the store directory '%s' is at '%s', and builds in it need a sandbox: %w", b.dir, b.s.RealDir(), able.Isolation)
	}
	if b.o.NoSandboxFallback {
		return fmt.Errorf("this system does not support the kernel namespaces that are required for sandboxing; use '--no-sandbox' to disable sandboxing: %w", able.Isolation)
	}
	b.boxed, b.weaker = false, &able
	return nil
}

// How often a build user is tried to be had, at first and at last.
const (
	firstUserPause = 10 * time.Millisecond
	lastUserPause  = time.Second
)

// takeUser gets a user and a control group for the builder.
func (b *build) takeUser(ctx context.Context) error {
	if b.job.Drv.IsBuiltin() {
		return nil
	}
	want := sandbox.Want{Range: b.attrs.UIDRange(), Isolated: b.boxed}
	if want.Range && b.o.Users.Auto == nil {
		return failf(store.MiscFailure, "feature 'uid-range' requires the setting 'auto-allocate-uids' to be enabled")
	}
	if b.o.Users.Enabled() {
		user, err := b.waitForUser(ctx, want)
		if err != nil {
			return err
		}
		b.user = user
		b.own = &owner{uid: int(user.UID), gid: int(user.GID)}
	}
	if b.weaker != nil {
		activity.Warnf(ctx, "auto-disabling sandboxing: %v. %s", b.weaker.Isolation, b.weaker.Weaker(b.user))
	}
	if !b.o.UseCgroups && !want.Range {
		return nil
	}
	if err := b.require("cgroups"); err != nil {
		return err
	}
	var err error
	b.cgroup, err = sandbox.NewCgroup(ctx, b.s.StateDir(), b.user)
	return err
}

func (b *build) waitForUser(ctx context.Context, want sandbox.Want) (*sandbox.User, error) {
	var act *activity.Activity
	for pause := firstUserPause; ; pause = min(2*pause, lastUserPause) {
		user, err := b.o.Users.TryAcquire(ctx, want)
		if !errors.Is(err, sandbox.ErrNoneFree) {
			return user, err
		}
		if act == nil {
			_, act = activity.Start(ctx, activity.Warn, activity.BuildWaiting,
				fmt.Sprintf("waiting for a free build user ID for '%s'", b.dir.Print(b.job.DrvPath)))
			defer act.Stop()
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}
