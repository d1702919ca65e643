package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// RefreshResult is what a refresh was.
type RefreshResult struct {
	Stack string `json:"stack"`
	// Grown are the names of the lowers that had changed.
	Grown []string `json:"grown"`
	// ListingsStale tells that processes which hold the merged directory open may go
	// on reading an old listing.
	ListingsStale bool    `json:"listingsStale,omitempty"`
	Seconds       float64 `json:"seconds"`
}

// RefreshStatus tells of the refreshes of a stack that is up.
type RefreshStatus struct {
	Watch WatchHow `json:"watch"`
	// Last is when the last one was, of whatever cause; absent if there was none.
	Last    *time.Time `json:"last,omitempty"`
	Seconds float64    `json:"seconds,omitempty"` // what it took
	Count   uint64     `json:"count"`
	Errors  uint64     `json:"errors"`
	// LastError is why the last one that failed did.
	LastError string `json:"lastError,omitempty"`
	// Lowers tell how each is watched, in their order.
	Lowers []WatchStatus `json:"lowers"`
}

// refreshes counts those of a stack.
type refreshes struct {
	mu     sync.Mutex
	status RefreshStatus
}

// Refresh makes everything visible that lowers have gained, to all that runs.
func (s *Stack) Refresh(ctx context.Context) (*RefreshResult, error) {
	done, err := s.Store.Refresh(ctx)
	s.refreshes.mu.Lock()
	defer s.refreshes.mu.Unlock()
	st := &s.refreshes.status
	if err != nil {
		st.Errors++
		st.LastError = err.Error()
		return nil, fmt.Errorf("refreshing: %w", err)
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	st.Last, st.Seconds = &now, done.Took.Seconds()
	st.Count++
	r := &RefreshResult{Stack: s.Config.Name, Grown: []string{}, ListingsStale: done.ListingsStale, Seconds: done.Took.Seconds()}
	for _, i := range done.Grown {
		r.Grown = append(r.Grown, s.Config.Lowers[i].Name)
	}
	return r, nil
}

// refreshStatus is a copy for whoever asks.
func (s *Stack) refreshStatus() *RefreshStatus {
	s.refreshes.mu.Lock()
	st := s.refreshes.status
	s.refreshes.mu.Unlock()
	st.Watch = s.Config.Watch.How
	st.Lowers = []WatchStatus{}
	if w := s.background.watching(); w != nil {
		st.Lowers = w.status()
	}
	return &st
}

// Refresh has the process that serves a stack make visible what lowers have gained.
func (r *Run) Refresh(ctx context.Context) (*RefreshResult, error) {
	var result RefreshResult
	err := r.ask(ctx, askRefresh, nil, &result)
	return &result, err
}

// RefreshOver refreshes the stacks of this machine that have the objects in a
// directory as a lower, after something was written there, and names them. What
// cannot be refreshed is in the error, beside the others.
func RefreshOver(ctx context.Context, dir string) (refreshed []string, err error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	all, err := List()
	for _, r := range all {
		if up, upErr := r.Up(); upErr != nil || !up || !r.hasLower(&st) {
			continue
		}
		if _, askErr := r.Refresh(ctx); askErr != nil {
			err = errors.Join(err, askErr)
			continue
		}
		refreshed = append(refreshed, r.Name)
	}
	return refreshed, err
}

func (r *Run) hasLower(dir *unix.Stat_t) bool {
	for _, l := range r.Lowers {
		var st unix.Stat_t
		if unix.Stat(l.Dir, &st) == nil && st.Dev == dir.Dev && st.Ino == dir.Ino {
			return true
		}
	}
	return false
}
