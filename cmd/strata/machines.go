package main

import (
	"context"
	"time"

	"github.com/strata-nix/strata/activity"
	building "github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/worker"
)

// openMachine opens the store of a machine that builds for this one. It gets none
// of our settings but those of the build: it has its own, and max-jobs may well be 0
// here.
func (c *config) openMachine(ctx context.Context, ref store.Reference, o *building.Options, tell func(line string)) (store.Store, error) {
	m := *c
	m.tell, m.tellDaemon = tell, true
	m.local.Build.Execute = *o
	m.forDaemon = &worker.Options{
		KeepFailed: o.KeepFailed, Verbosity: activity.Info, VerboseBuild: true, MaxJobs: 1,
		MaxSilentTime: uint64(o.MaxSilentTime / time.Second), Substitute: true,
	}
	return m.open(ctx, ref)
}
