package stack

import (
	"fmt"
	"time"

	"github.com/strata-nix/strata/internal/calendar"
)

// Watch says how it is noticed that a lower has grown.
type Watch struct {
	How WatchHow // WatchAuto unless set
	// Every is how often a lower is looked at whose changes nobody tells us;
	// DefaultWatchInterval unless set.
	Every time.Duration
}

// WatchHow is a way of noticing.
type WatchHow string

// The ways.
const (
	WatchAuto    WatchHow = "auto"    // inotify where all changes are made on this machine, else polling
	WatchInotify WatchHow = "inotify" // the kernel tells; and a look from time to time
	WatchPoll    WatchHow = "poll"    // a look from time to time
	WatchNever   WatchHow = "never"   // when 'strata refresh' asks, or a client wants what does not show
)

// DefaultWatchInterval is how often lowers are looked at.
const DefaultWatchInterval = 10 * time.Second

func (f *file) watch() (w Watch, err error) {
	w.How = WatchHow(f.Watch)
	if f.WatchInterval != "" {
		if w.Every, err = calendar.ParseSpan(f.WatchInterval); err != nil {
			return w, &ConfigError{"watch-interval", fmt.Sprintf("'%.80s' is not a duration such as \"10s\"", f.WatchInterval)}
		}
	}
	return w, nil
}

// watch fills in what is not set.
func (r *resolver) watch(w *Watch) {
	switch w.How {
	case "":
		w.How = WatchAuto
	case WatchAuto, WatchInotify, WatchPoll, WatchNever:
	default:
		r.fail("watch", "'%.40s' is none of auto, inotify, poll and never", w.How)
	}
	switch {
	case w.Every == 0:
		w.Every = DefaultWatchInterval
	case w.Every < 100*time.Millisecond:
		r.fail("watch-interval", "%s is too often", w.Every)
	}
}
