package worker

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/strata-nix/strata/nixhash"
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
	nar   *narReader
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
		if err := u.nar.skip(); err != nil {
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
	u.nar = newNarReader(u.below)
	return info, u.nar, nil
}

func (u *upload) close() {
	if u.nar != nil {
		u.nar.close()
		u.nar = nil
	}
}

// addDump adds d to the store of the connection.
func (s *session) addDump(ctx context.Context, d store.Dump, o store.AddOptions) (*store.PathInfo, error) {
	a, err := store.Need[store.DumpAdder](s.view, "addToStoreFromDump")
	if err != nil {
		return nil, err
	}
	o.Roots = s.tempRoots()
	return a.AddDump(ctx, d, o)
}

func serveAddToStore(ctx context.Context, s *session) error {
	if s.in.version < v1+25 {
		return serveOldAddToStore(ctx, s)
	}
	d := store.Dump{Name: s.in.TextMax(maxPath)}
	var err error
	if d.Spec, err = storepath.ParseSpec(s.in.TextMax(maxPath)); err != nil {
		s.in.reject(err)
	}
	d.NAR = d.Spec.Method == storepath.Recursive || d.Spec.Method == storepath.Git
	d.References = s.in.paths()
	o := store.AddOptions{Repair: s.in.Bool()}
	var info *store.PathInfo
	err = s.framed(func(r io.Reader) error {
		d.Contents = r
		if d.NAR {
			d.Contents = bufio.NewReaderSize(r, narBuffer)
		}
		info, err = s.addDump(ctx, d, o)
		return err
	})
	if err != nil {
		return err
	}
	s.stop()
	s.out.path(info.Path)
	s.out.info(info)
	return nil
}

// serveOldAddToStore: before 1.25 a NAR follows without frames, whatever the
// method.
func serveOldAddToStore(ctx context.Context, s *session) error {
	d := store.Dump{Name: s.in.TextMax(maxPath), NAR: true}
	fixed := s.in.Bool()
	recursive := s.in.Uint64()
	algorithm := s.in.TextMax(maxPath)
	var err error
	switch {
	case recursive > 1:
		s.in.Fail(fmt.Errorf("unsupported FileIngestionMethod with value of %d", recursive))
	case !fixed:
		d.Spec = storepath.Spec{Method: storepath.Recursive, Algorithm: nixhash.SHA256}
	default:
		d.Spec.Method = storepath.Flat
		if recursive == 1 {
			d.Spec.Method = storepath.Recursive
		}
		if d.Spec.Algorithm, err = nixhash.ParseAlgorithm(algorithm); err != nil {
			s.in.reject(err)
		}
	}
	var info *store.PathInfo
	err = s.inline(func(r io.Reader) error {
		d.Contents = r
		info, err = s.addDump(ctx, d, store.AddOptions{})
		return err
	})
	if err != nil {
		return err
	}
	s.stop()
	s.out.path(info.Path)
	return nil
}

func serveAddTextToStore(ctx context.Context, s *session) error {
	d := store.Dump{
		Name:     s.in.TextMax(maxPath),
		Spec:     storepath.Spec{Method: storepath.Text, Algorithm: nixhash.SHA256},
		Contents: strings.NewReader(s.in.Text()),
	}
	d.References = s.in.paths()
	if err := s.start(); err != nil {
		return err
	}
	info, err := s.addDump(ctx, d, store.AddOptions{})
	if err != nil {
		return err
	}
	s.stop()
	s.out.path(info.Path)
	return nil
}

func serveAddSignatures(ctx context.Context, s *session) error {
	p := s.in.path()
	sigs := s.in.signatures()
	if err := s.start(); err != nil {
		return err
	}
	a, err := store.Need[store.SignatureAdder](s.view, "addSignatures")
	if err != nil {
		return err
	}
	return s.done(a.AddSignatures(ctx, p, sigs))
}

// serveRegisterDrvOutput takes realisations of trusted clients only: nothing in
// the request proves that what it says is true. Stock daemons take none at all,
// unless an experimental feature is on.
func serveRegisterDrvOutput(ctx context.Context, s *session) error {
	var r *store.Realisation
	if s.in.version < v1+31 {
		r = &store.Realisation{ID: s.in.drvOutput(), OutPath: s.in.basePath()}
	} else {
		r = s.in.realisation()
	}
	if err := s.start(); err != nil {
		return err
	}
	if !s.Trusted {
		return denied("you are not privileged to register derivation outputs")
	}
	a, err := store.Need[store.RealisationRegistrar](s.view, "registerDrvOutput")
	if err != nil {
		return err
	}
	if err := a.RegisterRealisations(ctx, []*store.Realisation{r}); err != nil {
		return err
	}
	s.stop()
	return nil
}

func serveAddBuildLog(ctx context.Context, s *session) error {
	drv := s.in.basePath()
	err := s.framed(func(r io.Reader) error {
		if !s.Trusted {
			return denied("you are not privileged to add logs")
		}
		a, err := store.Need[store.LogAdder](s.view, "addBuildLog")
		if err != nil {
			return err
		}
		return a.AddBuildLog(ctx, drv, r)
	})
	return s.done(err)
}

// privilegeError has the words of stock daemons, which scripts look for.
type privilegeError string

func denied(why string) error { return privilegeError(why) }

func (e privilegeError) Error() string { return string(e) }

// Unwrap makes it a store.ErrNotPrivileged.
func (e privilegeError) Unwrap() error { return store.ErrNotPrivileged }
