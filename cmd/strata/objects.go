package main

import (
	"context"
	"io"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
)

// objectsOf is a store.SizedSource of the objects of a transfer, for a store that
// takes them one after the other. The next ones are read meanwhile, from the first
// on that is really wanted.
type objectsOf struct {
	ctx   context.Context //nolint:containedctx // lives as long as one call of AddMultiple
	t     *transfer
	total *activity.Activity // of the whole copy

	next    int
	current *wantedNAR
	ahead   [][]*aheadReader // of the objects before asked, those together that one reads
	asked   int
	begun   <-chan struct{}
}

// Len is how many objects are still to come.
func (s *objectsOf) Len() int { return len(s.t.items) - s.next }

// Next gives the next object.
func (s *objectsOf) Next() (*store.PathInfo, io.Reader, error) {
	s.closeCurrent()
	if err := context.Cause(s.ctx); err != nil {
		return nil, nil, err
	}
	s.total.Progress(uint64(s.next), uint64(len(s.t.items)), 1, 0)
	if s.next == len(s.t.items) {
		return nil, nil, io.EOF
	}
	it := s.t.items[s.next]
	s.current = &wantedNAR{source: s}
	s.next++
	return it.to, s.current, nil
}

// take gives the object that Next gave last, and begins to read others.
func (s *objectsOf) take() *aheadReader {
	if s.begun == nil {
		now := make(chan struct{})
		close(now)
		s.begun = now
	}
	if len(s.ahead) == 0 {
		s.asked = s.next - 1 // what came before was not wanted
	}
	for s.asked < len(s.t.items) && len(s.ahead) < aheadReaders {
		group := s.group()
		readAhead(s.begun, group)
		s.begun = group[len(group)-1].begun
		s.ahead = append(s.ahead, group)
	}
	r := s.ahead[0][0]
	if s.ahead[0] = s.ahead[0][1:]; len(s.ahead[0]) == 0 {
		s.ahead = s.ahead[1:]
	}
	return r
}

// group makes readers for the next object, and for those after it if all are small.
func (s *objectsOf) group() []*aheadReader {
	var group []*aheadReader
	for s.asked < len(s.t.items) && len(group) < aheadMany {
		it := s.t.items[s.asked]
		small := it.from.NarSize <= aheadSmall
		if !small && len(group) > 0 {
			break
		}
		s.asked++
		group = append(group, newAheadReader(s.ctx, it.from.NarSize,
			func(ctx context.Context) (io.ReadCloser, error) { return s.t.open(ctx, it) }))
		if !small {
			break
		}
	}
	return group
}

// closeCurrent ends the object that is being read. One that was not wanted at all
// may have been read ahead.
func (s *objectsOf) closeCurrent() {
	if s.current == nil {
		return
	}
	if s.current.r == nil && len(s.ahead) > 0 {
		_ = s.take().Close()
	} else if s.current.r != nil {
		_ = s.current.r.Close()
	}
	s.current = nil
}

// close ends all that is being read.
func (s *objectsOf) close() {
	s.closeCurrent()
	for _, group := range s.ahead {
		for _, r := range group {
			r.cancel()
		}
	}
	for _, group := range s.ahead {
		for _, r := range group {
			_ = r.Close()
		}
	}
	s.ahead = nil
}

// wantedNAR is taken when somebody begins to read it.
type wantedNAR struct {
	source *objectsOf
	r      *aheadReader
}

// Read reads.
func (n *wantedNAR) Read(p []byte) (int, error) {
	if n.r == nil {
		n.r = n.source.take()
	}
	return n.r.Read(p)
}
