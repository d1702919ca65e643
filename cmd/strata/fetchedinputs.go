package main

import (
	"sync"

	"github.com/strata-nix/strata/activity"
)

// fetchedInputs hears how much builds have fetched as they read their inputs, and hands all on. It is
// the same whether something is built here or by a daemon.
type fetchedInputs struct {
	of activity.Sink

	mu     sync.Mutex
	builds map[uint64]string // derivations by running activities
	bytes  map[string]uint64 // by derivations
}

// by is what came for the build of a derivation, as it is printed.
func (f *fetchedInputs) by(drv string) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bytes[drv]
}

// Log implements activity.Sink.
func (f *fetchedInputs) Log(level activity.Level, text string) { f.of.Log(level, text) }

// Start implements activity.Sink.
func (f *fetchedInputs) Start(e activity.Event) {
	if e.Type == activity.Build && len(e.Fields) > 0 {
		f.mu.Lock()
		if f.builds == nil {
			f.builds, f.bytes = map[uint64]string{}, map[string]uint64{}
		}
		f.builds[e.ID] = e.Fields[0].Text
		f.mu.Unlock()
	}
	f.of.Start(e)
}

// Stop implements activity.Sink.
func (f *fetchedInputs) Stop(id uint64) {
	f.mu.Lock()
	delete(f.builds, id)
	f.mu.Unlock()
	f.of.Stop(id)
}

// Result implements activity.Sink.
func (f *fetchedInputs) Result(id uint64, what activity.ResultType, fields []activity.Field) {
	if what == activity.InputsFetched && len(fields) > 0 {
		f.mu.Lock()
		if drv, ok := f.builds[id]; ok {
			f.bytes[drv] += fields[0].Int
		}
		f.mu.Unlock()
		return
	}
	f.of.Result(id, what, fields)
}
