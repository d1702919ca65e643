package builder

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/builder/remote"
	"github.com/strata-nix/strata/store"
)

// farAway is other machines that may build something: a [remote.Farm] or a
// [remote.Hook].
type farAway interface {
	Suits(n remote.Need) bool
	Ask(ctx context.Context, drv string, n remote.Need, willing bool) (remote.Answer, remote.Place, error)
	Close()
}

// defaultPoll is PollInterval unless it is set.
const defaultPoll = 5 * time.Second

// elsewhere gives the other machines, nil if there are none.
func (r *request) elsewhere() (farAway, error) {
	if r.farOnce {
		return r.far, nil
	}
	r.farOnce = true
	if r.OpenMachine == nil || strings.TrimSpace(r.Builders) == "" {
		return nil, nil // without builders nobody asks the hook either
	}
	local, ok := r.Store.(remote.Local)
	if !ok {
		return nil, nil
	}
	if len(r.BuildHook) > 0 {
		r.far = remote.NewHook(r.BuildHook, local, r.Execute)
		return r.far, nil
	}
	machines, err := remote.ParseMachines(r.Builders, r.System)
	if err != nil || len(machines) == 0 {
		return nil, err
	}
	r.far = remote.NewFarm(remote.Options{
		Machines: machines, Local: local, Open: r.OpenMachine,
		UseSubstitutes: r.BuildersUseSubstitutes, Execute: r.Execute,
	})
	return r.far, nil
}

// need is what a derivation asks of a machine.
func (r *request) need(n *node) remote.Need {
	return remote.Need{System: n.drv.Platform, Features: n.opts.SystemFeatures(n.kind)}
}

// mayGo tells whether a derivation may be built elsewhere at all: checking and
// repairing are about what is here, and what nobody else can read is not sent.
func (b *building) mayGo() bool {
	return b.node.mode == store.BuildNormal && b.node.text.IsZero()
}

// suitsElsewhere tells whether another machine could build it.
func (r *request) suitsElsewhere(b *building) (bool, error) {
	if !b.mayGo() {
		return false, nil
	}
	far, err := r.elsewhere()
	return far != nil && far.Suits(r.need(b.node)), err
}

// fullPlaces are kinds of derivations for which no other machine has a place just
// now.
type fullPlaces map[string]bool

// askElsewhere asks for a place on another machine. Decline is for what is to be
// built here, if it can be.
func (r *request) askElsewhere(ctx context.Context, b *building, full fullPlaces) (remote.Answer, remote.Place, error) {
	if !b.mayGo() || b.why == "" && b.node.opts.PreferLocalBuild {
		return remote.Decline, nil, nil
	}
	far, err := r.elsewhere()
	if err != nil || far == nil {
		return remote.Decline, nil, err
	}
	need, willing := r.need(b.node), b.why == "" && r.slots.left()
	key := fmt.Sprint(need, willing)
	if full[key] {
		r.postpone(ctx, b)
		return remote.Postpone, nil, nil
	}
	answer, place, err := far.Ask(ctx, r.Store.Dir().Print(b.node.path), need, willing)
	if answer == remote.Postpone {
		full[key] = true
		r.postpone(ctx, b)
	}
	return answer, place, err
}

func (r *request) postpone(ctx context.Context, b *building) {
	r.postponed = true
	if b.waiting == nil {
		_, b.waiting = activity.Start(ctx, activity.Warn, activity.BuildWaiting,
			"waiting for a machine to build '"+r.Store.Dir().Print(b.node.path)+"'")
	}
}

func (b *building) stopWaiting() {
	if b.waiting != nil {
		b.waiting.Stop()
		b.waiting = nil
	}
}

// pollTimer tells when to ask again. Builds of other processes end unheard.
func (r *request) pollTimer() (<-chan time.Time, func()) {
	if !r.postponed {
		return nil, func() {}
	}
	wait := r.PollInterval
	if wait <= 0 {
		wait = defaultPoll
	}
	t := time.NewTimer(wait)
	return t.C, func() { t.Stop() }
}
