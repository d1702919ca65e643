package binarycache

import (
	"context"
	"sync"
	"time"

	"github.com/strata-nix/strata/narinfo"
)

// flight is a narinfo that the cache is being asked for.
type flight struct {
	began time.Time
	done  chan struct{} // closed when the rest is certain
	info  *narinfo.NarInfo
	err   error
	ended bool // by who asked: it is no answer
}

// flights are those under way, by hash part.
type flights struct {
	mu sync.Mutex
	of map[string]*flight
}

// join gives the one for a hash part. If it is mine, nobody asks yet, and the caller has to.
func (fs *flights) join(hash string) (f *flight, mine bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f = fs.of[hash]; f != nil {
		return f, false
	}
	if fs.of == nil {
		fs.of = map[string]*flight{}
	}
	f = &flight{began: time.Now(), done: make(chan struct{})}
	fs.of[hash] = f
	return f, true
}

// land gives the answer to all who have joined.
func (fs *flights) land(hash string, f *flight) {
	fs.mu.Lock()
	delete(fs.of, hash)
	fs.mu.Unlock()
	close(f.done)
}

// fetchInfo asks the cache for one narinfo, nil if it has none. Of those who want the same at once, one asks. What there is
// is an answer for all of them; that there is nothing only for who came before it was asked, as it may have been put there since.
func (s *Store) fetchInfo(ctx context.Context, hash string) (*narinfo.NarInfo, error) {
	came := time.Now()
	for {
		f, mine := s.flights.join(hash)
		if mine {
			f.info, f.err = s.askInfo(ctx, hash)
			f.ended = ctx.Err() != nil
			s.flights.land(hash, f)
			return f.info, f.err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if f.err == nil && f.info != nil || !f.ended && f.began.After(came) {
			return f.info, f.err
		}
	}
}
