package worker

import (
	"bufio"
	"context"
	"errors"
	"io"

	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/wire"
)

// addFlags reads what both ways to add an object with a known path info end
// with. An untrusted client does not get signatures passed over by asking.
func (s *session) addFlags() store.AddOptions {
	o := store.AddOptions{Repair: s.in.Bool(), NoCheckSigs: s.in.Bool()}
	o.NoCheckSigs = o.NoCheckSigs && s.Trusted
	return o
}

func serveAddToStoreNar(ctx context.Context, s *session) error {
	info := s.in.info(s.in.path())
	o := s.addFlags()
	info.Ultimate = info.Ultimate && s.Trusted
	add := func(r io.Reader) error {
		a, err := store.Need[store.Adder](s.view, "addToStore")
		if err != nil {
			return err
		}
		o.Roots = s.tempRoots()
		return a.Add(ctx, info, r, o)
	}
	var err error
	switch {
	case s.in.version >= v1+23:
		err = s.framed(func(r io.Reader) error { return add(bufio.NewReaderSize(r, narBuffer)) })
	case s.in.version >= v1+21:
		err = s.tunnelled(add)
	default:
		err = s.inline(add)
	}
	if err != nil {
		return err
	}
	s.stop()
	return nil
}

// Add implements store.Adder. The daemon is asked first, so that an object which
// it has already is not sent.
func (c *Client) Add(ctx context.Context, info *store.PathInfo, archive io.Reader, o store.AddOptions) error {
	if err := keep(ctx, o, info.Path); err != nil {
		return err
	}
	if !o.Repair {
		if valid, err := c.ValidPaths(ctx, []storepath.Path{info.Path}); err != nil || len(valid) > 0 {
			return err
		}
	}
	return c.with(ctx, opAddToStoreNar, func(k *conn) error {
		k.out.Uint64(opAddToStoreNar)
		k.out.path(info.Path)
		k.out.info(info)
		k.out.Bool(o.Repair)
		k.out.Bool(o.NoCheckSigs)
		if k.out.version >= v1+23 {
			return k.upload(ctx, true, func(w io.Writer) error {
				_, err := nar.Copy(w, archive)
				return err
			})
		}
		if err := k.out.Flush(); err != nil {
			return k.lastWords(ctx, err)
		}
		n := nar.NewStream(archive)
		defer n.Close()
		return k.hear(ctx, n)
	})
}

// keep adds p to the roots that somebody asked for.
func keep(ctx context.Context, o store.AddOptions, p storepath.Path) error {
	if o.Roots == nil {
		return nil
	}
	return o.Roots.Add(ctx, []storepath.Path{p})
}

func serveAddMultipleToStore(ctx context.Context, s *session) error {
	o := s.addFlags()
	err := s.framed(func(r io.Reader) error {
		o.Roots = s.tempRoots()
		src := newUpload(r, s.in.dir)
		defer src.close()
		return store.AddMultiple(ctx, s.view, src, o)
	})
	if err != nil {
		return err
	}
	s.stop()
	return nil
}

// upload is the stream of AddMultipleToStore: the number of objects, then for
// each its path info and its NAR.
type upload struct {
	in    *decoder
	below *bufio.Reader // what in reads from, too
	left  int
	nar   *nar.Stream
}

func newUpload(r io.Reader, dir storepath.Dir) *upload {
	// A wire.Reader takes a buffer that is large enough as its own, so that both
	// can be used in turn.
	below := bufio.NewReaderSize(r, narBuffer)
	u := &upload{in: &decoder{Reader: wire.NewReader(below), dir: dir, version: infoVersion}, below: below}
	const most = 1 << 40
	u.left = int(u.in.Int(most))
	return u
}

// Len implements store.SizedSource.
func (u *upload) Len() int { return u.left }

// Next implements store.ObjectSource.
func (u *upload) Next() (*store.PathInfo, io.Reader, error) {
	if u.nar != nil {
		if err := u.nar.Skip(); err != nil {
			return nil, nil, err
		}
		u.close()
	}
	if err := u.in.end(); err != nil {
		return nil, nil, notJustEOF(err)
	}
	if u.left == 0 {
		return nil, nil, io.EOF
	}
	u.left--
	info := u.in.info(u.in.path())
	if err := u.in.end(); err != nil {
		return nil, nil, notJustEOF(err)
	}
	info.Ultimate = false
	u.nar = nar.NewStream(u.below)
	return info, u.nar, nil
}

func (u *upload) close() {
	if u.nar != nil {
		u.nar.Close()
		u.nar = nil
	}
}

// AddMultiple implements store.MultiAdder. It takes one request if src is a
// store.SizedSource, as the daemon is told the number of objects first.
func (c *Client) AddMultiple(ctx context.Context, src store.ObjectSource, o store.AddOptions) error {
	sized, ok := src.(store.SizedSource)
	if !ok || c.proto < opByNumber(opAddMultipleToStore).since {
		return c.addEach(ctx, src, o)
	}
	return c.with(ctx, opAddMultipleToStore, func(k *conn) error {
		k.out.Uint64(opAddMultipleToStore)
		k.out.Bool(o.Repair)
		k.out.Bool(o.NoCheckSigs)
		return k.upload(ctx, true, func(w io.Writer) error {
			return c.sendObjects(ctx, w, sized, o)
		})
	})
}

func (c *Client) sendObjects(ctx context.Context, w io.Writer, src store.SizedSource, o store.AddOptions) error {
	e := &encoder{Writer: wire.NewWriter(w), dir: c.o.Dir, version: infoVersion}
	e.Uint64(uint64(src.Len()))
	for {
		info, archive, err := src.Next()
		if errors.Is(err, io.EOF) {
			return e.Flush()
		}
		if err != nil {
			return err
		}
		if err := keep(ctx, o, info.Path); err != nil {
			return err
		}
		e.path(info.Path)
		e.info(info)
		if _, err := nar.Copy(e, archive); err != nil {
			return err
		}
	}
}

func (c *Client) addEach(ctx context.Context, src store.ObjectSource, o store.AddOptions) error {
	for {
		info, archive, err := src.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if info.Ultimate {
			info = info.Clone()
			info.Ultimate = false // as the operation for many has it
		}
		if err := c.Add(ctx, info, archive, o); err != nil {
			return err
		}
	}
}
