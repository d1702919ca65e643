package worker

import (
	"context"
	"fmt"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// featureClosure is the extension of the protocol that has opQueryClosure; doc/formats/worker-closure.md
// describes it.
const featureClosure = "strata-closure"

// closureBatch is how many paths the server looks up at once: the client decodes some while the
// next ones are read.
const closureBatch = 256

func serveQueryClosure(ctx context.Context, s *session) error {
	paths := s.in.paths()
	if err := s.start(); err != nil {
		return err
	}
	err := store.WalkClosure(ctx, s.view, paths, closureBatch, func(asked []storepath.Path, infos []*store.PathInfo) error {
		if !s.answered {
			s.stop()
		}
		s.out.Uint64(uint64(len(asked)))
		for i, info := range infos {
			s.out.path(asked[i])
			s.out.Bool(info != nil)
			if info != nil {
				s.out.info(info)
			}
		}
		return s.out.Flush()
	})
	if !s.answered {
		if err != nil {
			return err
		}
		s.stop()
	}
	s.out.Uint64(0)
	if err != nil {
		s.out.fault(faultOf(err))
		return fmt.Errorf("%w: %w", errAnswered, err)
	}
	s.out.Uint64(msgLast)
	return nil
}

// QueryClosure implements store.ClosureQuerier.
func (c *Client) QueryClosure(ctx context.Context, paths []storepath.Path) (infos []*store.PathInfo, err error) {
	if len(paths) == 0 {
		return nil, nil
	}
	err = c.twice(ctx, opQueryClosure, func(k *conn) error {
		if err := k.ask(ctx, opQueryClosure, func(e *encoder) { e.paths(paths) }, nil); err != nil {
			return err
		}
		var invalid storepath.Path
		infos, invalid = k.in.closure()
		bad := k.in.end()
		if k.in.Err() != nil {
			return bad
		}
		err := k.hear(ctx, nil)
		switch {
		case k.in.Err() != nil:
			return err
		case bad != nil:
			return bad
		case !invalid.IsZero():
			return &store.InvalidPathError{Path: c.o.Dir.Print(invalid)}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return infos, nil
}

// closure reads batches of infos until there is an empty one, and tells of a path that has none.
func (d *decoder) closure() (infos []*store.PathInfo, invalid storepath.Path) {
	for n := d.Count(); n > 0 && d.Err() == nil; n = d.Count() {
		for range n {
			p := d.path()
			if d.Bool() {
				infos = append(infos, d.info(p))
			} else {
				invalid = p
			}
			if d.Err() != nil {
				return nil, invalid
			}
		}
	}
	return infos, invalid
}
