package main

import (
	"context"
	"io"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
)

// objectsOf is a store.SizedSource of the objects of a transfer, for a store that
// takes them one after the other. An object's NAR is asked for when the first byte
// of it is read.
type objectsOf struct {
	ctx   context.Context //nolint:containedctx // lives as long as one call of AddMultiple
	t     *transfer
	total *activity.Activity // of the whole copy

	next    int
	current *lazyNAR
}

// Len is how many objects are still to come.
func (s *objectsOf) Len() int { return len(s.t.items) - s.next }

// Next gives the next object.
func (s *objectsOf) Next() (*store.PathInfo, io.Reader, error) {
	s.close()
	if err := context.Cause(s.ctx); err != nil {
		return nil, nil, err
	}
	s.total.Progress(uint64(s.next), uint64(len(s.t.items)), 1, 0)
	if s.next == len(s.t.items) {
		return nil, nil, io.EOF
	}
	it := s.t.items[s.next]
	s.next++
	s.current = &lazyNAR{open: func() (io.ReadCloser, error) { return s.t.open(s.ctx, it) }}
	return it.to, s.current, nil
}

// close ends the object that is being read.
func (s *objectsOf) close() {
	if s.current != nil {
		s.current.close()
		s.current = nil
	}
}

// lazyNAR is opened when somebody begins to read it.
type lazyNAR struct {
	open func() (io.ReadCloser, error)
	r    io.ReadCloser
	err  error
}

// Read reads.
func (n *lazyNAR) Read(p []byte) (int, error) {
	if n.r == nil && n.err == nil {
		n.r, n.err = n.open()
	}
	if n.err != nil {
		return 0, n.err
	}
	return n.r.Read(p)
}

func (n *lazyNAR) close() {
	if n.r != nil {
		_ = n.r.Close()
	}
}
