package stack

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// WatchStatus tells how a lower is watched.
type WatchStatus struct {
	Name string `json:"name"`
	// How is inotify, poll or never; a lower that cannot change is never watched.
	How WatchHow `json:"how"`
	// Changes is how often it was seen to change, Last when that was.
	Changes uint64     `json:"changes"`
	Last    *time.Time `json:"last,omitempty"`
	// Problem says why it cannot be watched now, or not as it should be.
	Problem string `json:"problem,omitempty"`
}

// Bounds of automatic refreshes. Many changes come close together: whoever copies
// ten thousand objects makes as many. So a refresh waits until it is quiet, though
// not for long, and what refreshes take is a small part of the time.
const (
	quiet      = 100 * time.Millisecond
	mostDelay  = time.Second
	leastPause = 500 * time.Millisecond
	// share is how many times longer than the last refresh there is none.
	share = 10
	// rareLook is how many times more rarely a lower is looked at whose changes the
	// kernel tells us.
	rareLook = 6
)

// watcher refreshes the merged directory when lowers change.
type watcher struct {
	refresh func(context.Context) error
	log     *slog.Logger
	every   time.Duration
	lowers  []*watched
	told    chan struct{} // has one when something has changed
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

// watched is one lower.
type watched struct {
	dir, state string

	mu sync.Mutex
	st WatchStatus
}

// watch begins to watch the lowers, if that is wanted.
func (s *Stack) watch() *watcher {
	w := &watcher{
		refresh: func(ctx context.Context) error { _, err := s.Refresh(ctx); return err },
		log:     s.parts.Log, every: s.Config.Watch.Every, told: make(chan struct{}, 1),
	}
	for i, dir := range s.Store.LowerDirs() {
		l := &watched{dir: dir, state: s.found[i].state}
		l.st.Name = s.Config.Lowers[i].Name
		l.st.How = howToWatch(s.Config.Watch.How, dir)
		w.lowers = append(w.lowers, l)
	}
	w.start()
	return w
}

// Magic numbers that x/sys does not have. Source: statfs(2), and the kernel's
// sources.
const (
	magicZFS      = 0x2fc12fc1
	magicBcachefs = 0xca451a4e
)

// howToWatch decides how. Inotify tells what is changed by way of this kernel, which
// on network file systems and FUSE is not all, nor on an overlay what changes beneath.
func howToWatch(want WatchHow, dir string) WatchHow {
	var fs unix.Statfs_t
	if want == WatchNever || unix.Statfs(dir, &fs) != nil {
		return want
	}
	switch fs.Type {
	case unix.EROFS_SUPER_MAGIC_V1, unix.SQUASHFS_MAGIC:
		return WatchNever
	}
	if want != WatchAuto {
		return want
	}
	switch uint32(fs.Type) { //nolint:gosec // magic numbers have 32 bits
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.TMPFS_MAGIC, unix.F2FS_SUPER_MAGIC, magicZFS, magicBcachefs:
		return WatchInotify
	}
	return WatchPoll
}

func (w *watcher) start() {
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	for _, l := range w.lowers {
		if l.st.How == WatchNever {
			continue
		}
		// Who looks at a file system that does not answer cannot be waited for.
		go w.poll(ctx, l, signOf(l.dir, l.state))
		if l.st.How == WatchInotify {
			w.wg.Go(func() { w.listen(ctx, l) })
		}
	}
	w.wg.Go(func() { w.run(ctx) })
}

func (w *watcher) stop() {
	w.cancel()
	w.wg.Wait()
}

func (w *watcher) status() []WatchStatus {
	out := make([]WatchStatus, len(w.lowers))
	for i, l := range w.lowers {
		l.mu.Lock()
		out[i] = l.st
		l.mu.Unlock()
	}
	return out
}

// changed notes that a lower has changed.
func (w *watcher) changed(l *watched) {
	l.mu.Lock()
	now := time.Now().UTC().Truncate(time.Millisecond)
	l.st.Changes++
	l.st.Last = &now
	l.mu.Unlock()
	select {
	case w.told <- struct{}{}:
	default: // somebody else has
	}
}

// problem notes why a lower cannot be watched; nil that it can be.
func (l *watched) problem(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.st.Problem = ""; err != nil {
		l.st.Problem = err.Error()
	}
}

// run refreshes when it is told.
func (w *watcher) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.told:
		}
		if !w.untilQuiet(ctx) {
			return
		}
		began := time.Now()
		if err := w.refresh(ctx); err != nil && ctx.Err() == nil {
			w.log.Warn(fmt.Sprintf("objects that a lower store has gained may not show: %v", err))
		}
		if !sleep(ctx, max(leastPause, share*time.Since(began))) {
			return
		}
	}
}

// untilQuiet waits until nothing changes any more, or long enough.
func (w *watcher) untilQuiet(ctx context.Context) bool {
	latest := time.NewTimer(mostDelay)
	defer latest.Stop()
	for {
		calm := time.NewTimer(quiet)
		select {
		case <-ctx.Done():
			calm.Stop()
			return false
		case <-w.told:
			calm.Stop()
		case <-calm.C:
			return true
		case <-latest.C:
			calm.Stop()
			return true
		}
	}
}

// sleep is false if ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
