package worker

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"iter"

	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

func serveIsValidPath(ctx context.Context, s *session) error {
	p := s.in.path()
	if err := s.start(); err != nil {
		return err
	}
	valid, err := s.view.ValidPaths(ctx, []storepath.Path{p})
	if err != nil {
		return err
	}
	s.stop()
	s.out.Bool(len(valid) > 0)
	return nil
}

func serveQueryValidPaths(ctx context.Context, s *session) error {
	paths := s.in.paths()
	substitute := s.in.version >= v1+27 && s.in.Bool()
	if err := s.start(); err != nil {
		return err
	}
	if substitute {
		s.substitutePaths(ctx, paths)
	}
	valid, err := s.view.ValidPaths(ctx, paths)
	return s.answerPaths(valid, err)
}

// answerPaths ends an operation whose answer is a set of paths.
func (s *session) answerPaths(paths []storepath.Path, err error) error {
	if err != nil {
		return err
	}
	s.stop()
	s.out.paths(paths)
	return nil
}

// ValidPaths implements store.Querier.
func (c *Client) ValidPaths(ctx context.Context, paths []storepath.Path) (valid []storepath.Path, err error) {
	if len(paths) == 1 {
		err := c.ask(ctx, opIsValidPath, func(e *encoder) { e.path(paths[0]) }, func(d *decoder) {
			if d.Bool() {
				valid = paths
			}
		})
		return valid, err
	}
	if len(paths) == 0 {
		return nil, nil
	}
	var found []storepath.Path
	err = c.ask(ctx, opQueryValidPaths, func(e *encoder) {
		e.paths(paths)
		if e.version >= v1+27 {
			e.Bool(false) // whether to substitute
		}
	}, func(d *decoder) { found = d.paths() })
	if err != nil {
		return nil, err
	}
	has := storepath.NewSet(found...)
	for _, p := range paths {
		if has.Has(p) {
			valid = append(valid, p)
		}
	}
	return valid, nil
}

func serveQueryPathInfo(ctx context.Context, s *session) error {
	p := s.in.path()
	if err := s.start(); err != nil {
		return err
	}
	infos, err := s.view.PathInfos(ctx, []storepath.Path{p})
	if err != nil {
		return err
	}
	s.stop()
	s.out.Bool(infos[0] != nil)
	if infos[0] != nil {
		s.out.info(infos[0])
	}
	return nil
}

// PathInfos implements store.Querier.
func (c *Client) PathInfos(ctx context.Context, paths []storepath.Path) ([]*store.PathInfo, error) {
	infos := make([]*store.PathInfo, len(paths))
	err := c.askMany(ctx, opQueryPathInfo, len(paths),
		func(e *encoder, i int) { e.path(paths[i]) },
		func(d *decoder, i int) {
			if d.Bool() {
				infos[i] = d.info(paths[i])
			}
		})
	if err != nil {
		return nil, err
	}
	return infos, nil
}

func serveQueryAllValidPaths(ctx context.Context, s *session) error {
	if err := s.start(); err != nil {
		return err
	}
	l, err := store.Need[store.Lister](s.view, "queryAllValidPaths")
	if err != nil {
		return err
	}
	all, err := listPaths(ctx, l)
	if err != nil {
		return err
	}
	s.stop()
	s.out.Uint64(uint64(all.Len()))
	for p := range all.All() {
		s.out.path(p)
	}
	return nil
}

// listPaths gathers all paths, as the answer begins with their number.
func listPaths(ctx context.Context, l store.Lister) (*storepath.List, error) {
	if b, ok := l.(store.BulkLister); ok {
		return b.ListPaths(ctx)
	}
	all := new(storepath.List)
	for p, err := range l.AllPaths(ctx) {
		if err != nil {
			return nil, err
		}
		all.Add(p)
	}
	return all, nil
}

// AllPaths implements store.Lister. It takes a connection of its own, so that
// whoever consumes the paths may ask about them.
func (c *Client) AllPaths(ctx context.Context) iter.Seq2[storepath.Path, error] {
	return func(yield func(storepath.Path, error) bool) {
		k, err := c.connect(ctx)
		if err != nil {
			yield(storepath.Path{}, err)
			return
		}
		defer k.close()
		more := true
		err = k.during(ctx, func() error {
			return k.ask(ctx, opQueryAllValidPaths, nil, func(d *decoder) {
				for range d.Count() {
					p := d.path()
					if d.Err() != nil || d.bad != nil {
						return
					}
					if more = yield(p, nil); !more {
						return
					}
				}
			})
		})
		if more && err != nil {
			yield(storepath.Path{}, err)
		}
	}
}

func serveQueryPathFromHashPart(ctx context.Context, s *session) error {
	part := s.in.TextMax(maxPath)
	if err := storepath.CheckHashPart(part); err != nil {
		s.in.reject(fmt.Errorf("invalid hash part: %w", err))
	}
	if err := s.start(); err != nil {
		return err
	}
	q, err := store.Need[store.HashPartQuerier](s.view, "queryPathFromHashPart")
	if err != nil {
		return err
	}
	p, err := q.PathFromHashPart(ctx, part)
	if err != nil {
		return err
	}
	s.stop()
	s.out.optPath(p)
	return nil
}

// PathFromHashPart implements store.HashPartQuerier.
func (c *Client) PathFromHashPart(ctx context.Context, hashPart string) (p storepath.Path, err error) {
	err = c.ask(ctx, opQueryPathFromHashPart, func(e *encoder) { e.Text(hashPart) }, func(d *decoder) { p = d.optPath() })
	return p, err
}

func serveNarFromPath(ctx context.Context, s *session) error {
	p := s.in.path()
	if err := s.start(); err != nil {
		return err
	}
	n, err := store.Need[store.NarSource](s.view, "narFromPath")
	if err != nil {
		return err
	}
	return n.NarFromPath(ctx, p, narAnswer{s})
}

// narAnswer begins the answer with the first byte, as an error can be told only
// before that.
type narAnswer struct{ s *session }

func (a narAnswer) Write(p []byte) (int, error) {
	if !a.s.answered && len(p) > 0 {
		a.s.stop()
	}
	return a.s.out.Write(p)
}

// NarFromPath implements store.NarSource.
func (c *Client) NarFromPath(ctx context.Context, p storepath.Path, w io.Writer) error {
	return c.with(ctx, opNarFromPath, func(k *conn) error {
		if err := k.ask(ctx, opNarFromPath, func(e *encoder) { e.path(p) }, nil); err != nil {
			return err
		}
		k.broken = true // unless all goes well
		if word, err := k.below.Peek(8); err == nil && binary.LittleEndian.Uint64(word) == msgError {
			// Stock daemons look for the object only now. No NAR begins like that.
			return k.hear(ctx, nil)
		}
		if _, err := nar.Copy(w, k.below); err != nil {
			return err
		}
		k.broken = false
		return nil
	})
}
