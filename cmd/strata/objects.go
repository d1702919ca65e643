package main

import (
	"context"
	"fmt"
	"io"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
)

// objectsOf is a store.SizedSource of objects of a store. An object's NAR is asked
// for when the first byte of it is read.
type objectsOf struct {
	ctx   context.Context //nolint:containedctx // lives as long as one call of AddMultiple
	from  store.Store
	nars  store.NarSource
	to    store.Store
	infos []*store.PathInfo
	total *activity.Activity // of the whole copy

	next    int
	current *objectNAR
}

// Len is how many objects are still to come.
func (s *objectsOf) Len() int { return len(s.infos) - s.next }

// Next gives the next object.
func (s *objectsOf) Next() (*store.PathInfo, io.Reader, error) {
	s.close()
	if err := context.Cause(s.ctx); err != nil {
		return nil, nil, err
	}
	s.total.Progress(uint64(s.next), uint64(len(s.infos)), 1, 0)
	if s.next == len(s.infos) {
		return nil, nil, io.EOF
	}
	info := s.infos[s.next].Clone()
	info.Ultimate = false // it was built elsewhere
	s.next++
	s.current = &objectNAR{source: s, info: info}
	return info, s.current, nil
}

// close ends the object that is being read.
func (s *objectsOf) close() {
	if s.current != nil {
		s.current.close()
		s.current = nil
	}
}

// objectNAR reads one NAR.
type objectNAR struct {
	source *objectsOf
	info   *store.PathInfo
	pipe   *io.PipeReader // nil until the first Read
	sent   chan struct{}  // closed when the store has let go of the pipe
	act    *activity.Activity
	done   uint64
}

func (n *objectNAR) Read(p []byte) (int, error) {
	if n.pipe == nil {
		n.open()
	}
	k, err := n.pipe.Read(p)
	n.done += uint64(k)
	n.act.Progress(n.done, n.info.NarSize, 0, 0)
	return k, err
}

func (n *objectNAR) open() {
	from, to := n.source.from, n.source.to
	path := from.Dir().Print(n.info.Path)
	ctx, act := activity.Start(n.source.ctx, activity.Info, activity.CopyPath, fmt.Sprintf("copying path '%s'", path),
		activity.Text(path), activity.Text(from.URI()), activity.Text(to.URI()))
	pr, pw := io.Pipe()
	n.pipe, n.act, n.sent = pr, act, make(chan struct{})
	go func() {
		defer close(n.sent)
		pw.CloseWithError(n.source.nars.NarFromPath(ctx, n.info.Path, pw))
	}()
}

func (n *objectNAR) close() {
	if n.pipe == nil {
		return
	}
	_ = n.pipe.Close()
	<-n.sent
	n.act.Stop()
}
