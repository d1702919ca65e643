package lazy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"github.com/strata-nix/strata/fusefs"
)

// counters are what a store has to tell of itself.
type counters struct {
	fetched, bytes, failed, unanswered, lied       atomic.Int64
	completed                                      atomic.Int64
	requests, refused, eio, through, ahead, damage atomic.Int64
	waits, waited, guessed, guessedRead            atomic.Int64
}

// Counts is what happened since a store was opened.
type Counts struct {
	Fetched     int64 `json:"fetched"`     // objects that came from origins, whole
	Completed   int64 `json:"completed"`   // objects of which the last file has come by itself
	Bytes       int64 `json:"bytes"`       // of NARs that were read
	Requests    int64 `json:"requests"`    // NARs and parts of NARs that origins were asked for
	Ahead       int64 `json:"ahead"`       // files and objects that came before somebody wanted them, by a profile
	Waits       int64 `json:"waits"`       // reads that had to wait for what was to come
	Waited      int64 `json:"waitedMs"`    // how long, all together, in milliseconds
	Guessed     int64 `json:"guessed"`     // bytes of files that came because others were read that lie near, or need them
	GuessedRead int64 `json:"guessedRead"` // of those, what was read later
	Failed      int64 `json:"failed"`      // objects that could not be had
	EIO         int64 `json:"eio"`         // reads and look-ups that waited and ended in EIO
	Refused     int64 `json:"refused"`     // contents that came and were not those that were promised
	Damaged     int64 `json:"damaged"`     // objects of the cache that were not what they had been
	Through     int64 `json:"through"`     // objects, or parts of files, that were served and not kept, as there was no room
	Unanswered  int64 `json:"unanswered"`  // questions about validity that an origin failed to answer
	Lied        int64 `json:"lied"`        // listings that were not those of their objects
}

// Counts tells what happened since the store was opened.
func (s *Store) Counts() Counts {
	c := &s.count
	return Counts{
		Fetched: c.fetched.Load(), Completed: c.completed.Load(), Bytes: c.bytes.Load(), Requests: c.requests.Load(), Ahead: c.ahead.Load(),
		Waits: c.waits.Load(), Waited: time.Duration(c.waited.Load()).Milliseconds(),
		Guessed: c.guessed.Load(), GuessedRead: c.guessedRead.Load(),
		Failed: c.failed.Load(), EIO: c.eio.Load(), Refused: c.refused.Load(), Damaged: c.damage.Load(), Through: c.through.Load(),
		Unanswered: c.unanswered.Load(), Lied: c.lied.Load(),
	}
}

// Health is how a store and its origins are.
type Health struct {
	Offline bool           `json:"offline"` // nobody is asked
	Origins []OriginHealth `json:"origins"`
	Last    *Failure       `json:"lastError,omitempty"`
}

// OriginHealth is how an origin has behaved.
type OriginHealth struct {
	URI      string   `json:"uri"`
	Requests int64    `json:"requests"` // for contents
	Failures int64    `json:"failures"` // of these, and of questions about validity
	Last     *Failure `json:"lastError,omitempty"`
}

// Failure is something that went wrong.
type Failure struct {
	Time time.Time `json:"time"`
	Text string    `json:"text"`
}

// Health tells how the store and its origins are, in the order of the options.
func (s *Store) Health() Health {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	h := Health{Offline: s.o.Offline, Origins: []OriginHealth{}, Last: s.health.last}
	for _, from := range s.o.Origins {
		o := OriginHealth{URI: from.Store.URI()}
		if known := s.health.origins[o.URI]; known != nil {
			o = *known
		}
		h.Origins = append(h.Origins, o)
	}
	return h
}

// health is what Health tells, and which complaints were logged a moment ago.
type health struct {
	mu       sync.Mutex
	origins  map[string]*OriginHealth
	last     *Failure
	told     map[string]time.Time
	withheld int
}

// asked notes that an origin was asked for contents.
func (s *Store) asked(from *origin) {
	s.count.requests.Add(1)
	s.health.mu.Lock()
	s.health.of(from.Store.URI()).Requests++
	s.health.mu.Unlock()
}

// account counts what comes by a transfer that begins.
func (s *Store) account(ctx context.Context) func(bytes int) {
	var theirs func(int)
	if s.o.Account != nil {
		theirs = s.o.Account(ctx)
	}
	return func(bytes int) {
		s.count.bytes.Add(int64(bytes))
		if theirs != nil {
			theirs(bytes)
		}
	}
}

// blame notes that an origin failed at what began then.
func (s *Store) blame(from *origin, began time.Time, err error) {
	from.delays(began)
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	o := s.health.of(from.Store.URI())
	o.Failures++
	o.Last = &Failure{time.Now(), firstLine(err)}
}

func (h *health) of(uri string) *OriginHealth {
	if h.origins == nil {
		h.origins = map[string]*OriginHealth{}
	}
	o := h.origins[uri]
	if o == nil {
		o = &OriginHealth{URI: uri}
		h.origins[uri] = o
	}
	return o
}

// The same complaint is logged once in a while only, however many wait for the same thing.
const (
	complainPause = time.Minute
	maxComplaints = 1000
)

// complain logs that something went wrong, and remembers it. what tells complaints apart.
func (s *Store) complain(what string, err error) {
	now := time.Now()
	h := &s.health
	h.mu.Lock()
	h.last = &Failure{now, firstLine(err)}
	at, ok := h.told[what]
	silent := ok && now.Sub(at) < complainPause
	more := h.withheld
	if silent {
		h.withheld++
	} else {
		if h.told == nil || len(h.told) >= maxComplaints {
			h.told = map[string]time.Time{}
		}
		h.told[what], h.withheld = now, 0
	}
	h.mu.Unlock()
	switch {
	case silent:
	case more > 0:
		s.o.Log.Error(fmt.Sprintf("%v (and %d times what was said before)", err, more))
	default:
		s.o.Log.Error(err.Error())
	}
}

// maxFailureText bounds what is remembered of an error.
const maxFailureText = 1000

func firstLine(err error) string {
	text := err.Error()
	for i, r := range text {
		if r == '\n' || i >= maxFailureText {
			return text[:i]
		}
	}
	return text
}

// briefWait is how long a read takes that found what it wanted here.
const briefWait = time.Millisecond

// waited counts a read that may have had to wait for what was to come.
func (o *Objects) waited(ob *object, node uint32, off int64, took time.Duration) {
	if took < briefWait {
		return
	}
	o.s.count.waits.Add(1)
	o.s.count.waited.Add(int64(took))
	o.s.o.Log.Debug(fmt.Sprintf("reading at %d of '%s/%s' took %s", off, ob.info.Path, ob.tree.Path(node), took.Round(time.Millisecond)))
}

// answered counts an error that the kernel is given, if it will be EIO.
func (s *Store) answered(ctx context.Context, err error) error {
	if err != nil && ctx.Err() == nil && !errors.Is(err, fusefs.ErrStale) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, context.Canceled) {
		s.count.eio.Add(1)
	}
	return err
}
