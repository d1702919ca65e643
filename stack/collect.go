package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/profile"
	"github.com/strata-nix/strata/store"
)

// CollectOptions say what is different from the policy of the stack, once.
type CollectOptions struct {
	// Due collects only if that is due by the schedule.
	Due bool `json:"due,omitempty"`
	// DryRun changes nothing.
	DryRun bool `json:"dryRun,omitempty"`
	// The others win over what the policy says if they are set.
	DeleteOlderThan *time.Duration `json:"deleteOlderThan,omitempty"`
	DeleteOld       *bool          `json:"deleteOld,omitempty"`
	MaxSize         *uint64        `json:"maxSize,omitempty"`
	MaxFreed        *uint64        `json:"maxFreed,omitempty"`
	Optimise        *bool          `json:"optimise,omitempty"`
}

// over is the policy with what is different.
func (o CollectOptions) over(p Policy) Policy {
	if o.DeleteOlderThan != nil {
		p.DeleteOlderThan, p.DeleteOld = *o.DeleteOlderThan, false
	}
	if o.DeleteOld != nil {
		p.DeleteOld = *o.DeleteOld
	}
	if o.MaxSize != nil {
		p.MaxSize = *o.MaxSize
	}
	if o.MaxFreed != nil {
		p.MaxFreed = *o.MaxFreed
	}
	if o.Optimise != nil {
		p.Optimise = *o.Optimise
	}
	return p
}

// CollectResult is what a collection by a policy did. Its JSON form is described in
// doc/formats/cli-json.md.
type CollectResult struct {
	Stack string `json:"stack"`
	// Skipped tells that it was not due; Next is when it is, absent if never.
	Skipped bool       `json:"skipped,omitempty"`
	Next    *time.Time `json:"next,omitempty"`
	DryRun  bool       `json:"dryRun,omitempty"`
	// Generations are paths of generations of profiles that were deleted, or would be.
	Generations []string `json:"generations"`
	// Paths are how many paths were deleted, or would be, BytesFreed what left the disk.
	Paths      int    `json:"paths"`
	BytesFreed uint64 `json:"bytesFreed"`
	// SizeBefore and SizeAfter are the bytes on disk of the upper layer; absent if there is
	// no quota.
	SizeBefore *uint64 `json:"sizeBefore,omitempty"`
	SizeAfter  *uint64 `json:"sizeAfter,omitempty"`
	// OverQuota tells that what is alive is more than the quota.
	OverQuota bool      `json:"overQuota,omitempty"`
	Optimised bool      `json:"optimised,omitempty"`
	Started   time.Time `json:"started"`
	Seconds   float64   `json:"seconds"`
}

// turn is had by one at a time. The zero value is ready.
type turn struct {
	once sync.Once
	c    chan struct{}
}

func (t *turn) take(ctx context.Context) error {
	t.once.Do(func() { t.c = make(chan struct{}, 1) })
	select {
	case t.c <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t *turn) leave() { <-t.c }

// gcRecord is the file that says when garbage of an upper was collected by its
// policy. It is in the state directory.
const gcRecord = "strata-gc.json"

// Collect collects the garbage of the upper by its policy. Two of them wait for each
// other: the second finds what the first has left, and may not be due any more.
func (s *Stack) Collect(ctx context.Context, o CollectOptions) (*CollectResult, error) {
	if err := s.collecting.take(ctx); err != nil {
		return nil, fmt.Errorf("stack '%s': waiting for another collection of garbage: %w", s.Config.Name, err)
	}
	defer s.collecting.leave()
	p := o.over(s.Config.GC)
	r := &CollectResult{Stack: s.Config.Name, DryRun: o.DryRun, Generations: []string{}, Started: time.Now().UTC().Truncate(time.Millisecond)}
	if o.Due {
		due, next, err := s.due(r.Started)
		if err != nil {
			return nil, err
		}
		if !due {
			r.Skipped = true
			if !next.IsZero() {
				r.Next = &next
			}
			return r, nil
		}
	}
	err := s.collect(ctx, p, r)
	r.Seconds = time.Since(r.Started).Seconds()
	if err != nil {
		return r, fmt.Errorf("stack '%s': collecting garbage: %w", s.Config.Name, err)
	}
	if o.DryRun {
		return r, nil
	}
	if err := writeRecord(filepath.Join(s.Config.Upper.State, gcRecord), r); err != nil {
		activity.Warnf(ctx, "that garbage was collected could not be noted: %v", err)
	}
	if _, err := s.Publish(ctx); err != nil {
		activity.Warnf(ctx, "telling the owners of lowers what is used of them: %v", err)
	}
	return r, nil
}

func (s *Stack) collect(ctx context.Context, p Policy, r *CollectResult) error {
	if err := s.pruneProfiles(ctx, p, r); err != nil {
		return err
	}
	opts := store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit}
	if r.DryRun {
		opts.Action = store.ReturnDead
	}
	if p.MaxFreed > 0 {
		opts.MaxFreed = p.MaxFreed
	}
	if p.MaxSize > 0 {
		size, err := diskUsage(ctx, s.Config.Upper.Layer)
		if err != nil {
			return err
		}
		r.SizeBefore = &size
		if size <= p.MaxSize {
			r.SizeAfter = &size
			return s.optimiseIfWanted(ctx, p, r)
		}
		opts.MaxFreed = min(opts.MaxFreed, size-p.MaxSize)
	}
	done, err := s.Store.CollectGarbage(ctx, opts)
	if done != nil {
		r.Paths, r.BytesFreed = len(done.Paths), done.BytesFreed
	}
	if err != nil {
		return err
	}
	crashpoint.Reached("stack: garbage collected by policy")
	if err := s.optimiseIfWanted(ctx, p, r); err != nil {
		return err
	}
	return s.weigh(ctx, p, r)
}

// pruneProfiles deletes old generations. Those that another user than the owner made
// are his business.
func (s *Stack) pruneProfiles(ctx context.Context, p Policy, r *CollectResult) error {
	if p.DeleteOlderThan == 0 && !p.DeleteOld {
		return nil
	}
	var old profile.Old
	if !p.DeleteOld {
		old.Before = r.Started.Add(-p.DeleteOlderThan)
	}
	owner, err := p.owner()
	if err != nil {
		return err
	}
	may := func(path string) bool {
		var st syscall.Stat_t
		return owner < 0 || syscall.Lstat(path, &st) == nil && int(st.Uid) == owner
	}
	gone, err := profile.PruneAll(ctx, []string{filepath.Join(s.Config.Upper.State, "profiles")}, old, r.DryRun, may)
	for _, g := range gone {
		r.Generations = append(r.Generations, g.Path)
		if !r.DryRun {
			activity.Logf(ctx, activity.Info, "removing generation %d of profile '%s'", g.Number, g.Profile)
		}
	}
	return err
}

func (s *Stack) optimiseIfWanted(ctx context.Context, p Policy, r *CollectResult) error {
	if !p.Optimise || r.DryRun {
		return nil
	}
	r.Optimised = true
	return s.Store.Optimise(ctx)
}

// weigh compares what is left with the quota.
func (s *Stack) weigh(ctx context.Context, p Policy, r *CollectResult) error {
	if p.MaxSize == 0 || r.DryRun {
		return nil
	}
	size, err := diskUsage(ctx, s.Config.Upper.Layer)
	if err != nil {
		return err
	}
	r.SizeAfter, r.OverQuota = &size, size > p.MaxSize
	return nil
}

// due tells whether a collection is due by the schedule, and when the next one is.
func (s *Stack) due(now time.Time) (bool, time.Time, error) {
	schedule := s.Config.GC.Schedule
	if schedule.IsZero() {
		return false, time.Time{}, nil
	}
	last, err := readRecord(filepath.Join(s.Config.Upper.State, gcRecord))
	if err != nil {
		return false, time.Time{}, err
	}
	if last == nil || last.Started.After(now) { // never, or by a clock that was wrong
		return true, now, nil
	}
	next := schedule.Next(last.Started.Local())
	return !next.IsZero() && !next.After(now), next, nil
}

// readRecord reads what the last collection did; nil if there was none, or if what
// it left makes no sense: then one is due.
func readRecord(path string) (*CollectResult, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // none is an answer
	}
	if err != nil {
		return nil, err
	}
	var r CollectResult
	if json.Unmarshal(text, &r) != nil {
		return nil, nil //nolint:nilnil // likewise
	}
	return &r, nil
}

func writeRecord(path string, r *CollectResult) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", append(text, '\n'), 0o644); err != nil { //nolint:gosec // status is for everybody
		return err
	}
	return os.Rename(path+".new", path)
}

// diskUsage is how many bytes the files of a directory have on disk, each file once.
func diskUsage(ctx context.Context, dir string) (uint64, error) {
	total, seen := uint64(0), map[uint64]bool{} // of files with several names, by inode
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			var info fs.FileInfo
			if info, err = e.Info(); err == nil {
				st, ok := info.Sys().(*syscall.Stat_t)
				if !ok || st.Nlink > 1 && !info.IsDir() && seen[st.Ino] {
					return nil
				}
				if st.Nlink > 1 && !info.IsDir() {
					seen[st.Ino] = true
				}
				total += uint64(st.Blocks) * 512 //nolint:gosec // a count
			}
		}
		if errors.Is(err, fs.ErrNotExist) && path != dir {
			return nil // deleted meanwhile
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("measuring the upper layer: %w", err)
	}
	return total, nil
}

// Collect has the process that serves a stack collect its garbage.
func (r *Run) Collect(ctx context.Context, o CollectOptions) (*CollectResult, error) {
	var result CollectResult
	err := r.ask(ctx, askCollect, o, &result)
	return &result, err
}

// GCStatus tells of the collections of a stack by its policy.
type GCStatus struct {
	Schedule string         `json:"schedule,omitempty"`
	Last     *CollectResult `json:"last,omitempty"`
	Next     *time.Time     `json:"next,omitempty"` // absent if never
}

// gcStatus is nil if there never was a collection and none is to come.
func (s *Stack) gcStatus() *GCStatus {
	st := &GCStatus{Schedule: s.Config.GC.Schedule.String()}
	st.Last, _ = readRecord(filepath.Join(s.Config.Upper.State, gcRecord))
	if _, next, err := s.due(time.Now().UTC()); err == nil && !next.IsZero() {
		st.Next = &next
	}
	if *st == (GCStatus{}) {
		return nil
	}
	return st
}
