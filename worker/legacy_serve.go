package worker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/wire"
)

// LegacySession says what a client of the serve protocol is served with.
type LegacySession struct {
	Store store.Store
	// Write allows more than reading: adding, without signatures, and building
	// (`nix-store --serve --write`).
	Write bool
	// Busy, if not nil, is told true when a request has begun to arrive, and false
	// when it has been answered.
	Busy func(bool)
}

// ServeLegacy answers the requests of one client of the serve protocol until it
// hangs up, which is no error. The protocol has no words for errors: the first
// one is returned, and the caller says it to the client in another way. The caller
// closes conn; the store stays open. A wait for the client does not end with ctx:
// whoever wants that closes conn.
func ServeLegacy(ctx context.Context, conn io.ReadWriter, o LegacySession) (err error) {
	if o.Busy == nil {
		o.Busy = func(bool) {}
	}
	below := bufio.NewReaderSize(conn, narBuffer)
	s := &legacySession{LegacySession: o, below: below}
	s.out = &encoder{Writer: wire.NewWriter(conn), dir: o.Store.Dir(), version: legacyForms}
	s.in = &decoder{Reader: wire.NewReader(below), dir: o.Store.Dir(), version: legacyForms}
	if t, ok := store.As[store.TempRooter](o.Store); ok {
		s.roots = t.NewTempRoots()
		defer func() { err = errors.Join(err, s.roots.Close()) }()
		ctx = store.WithTempRoots(ctx, s.roots)
	}
	if err := s.greet(); err != nil {
		return err
	}
	for ctx.Err() == nil {
		number := s.in.Uint64()
		if err := s.in.Err(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		s.Busy(true)
		if err := s.perform(ctx, number); err != nil {
			return err
		}
		s.Busy(false)
	}
	return context.Cause(ctx)
}

// legacyOps is the table of everything. Each reads the request, performs it and
// answers.
var legacyOps = map[uint64]func(*legacySession, context.Context) error{
	legacyQueryValidPaths: (*legacySession).queryValidPaths,
	legacyQueryPathInfos:  (*legacySession).queryPathInfos,
	legacyDumpStorePath:   (*legacySession).dumpStorePath,
	legacyImportPaths:     (*legacySession).importPaths,
	legacyBuildPaths:      (*legacySession).buildPaths,
	legacyQueryClosure:    (*legacySession).queryClosure,
	legacyBuildDerivation: (*legacySession).buildDerivation,
	legacyAddToStoreNar:   (*legacySession).addToStoreNar,
}

type legacySession struct {
	LegacySession
	below   *bufio.Reader // what in reads from, for archives
	in      *decoder
	out     *encoder
	version LegacyVersion
	roots   store.TempRoots // nil if the store has no use for any
}

func (s *legacySession) perform(ctx context.Context, number uint64) error {
	serve := legacyOps[number]
	if serve == nil {
		return fmt.Errorf("%w: unknown serve command %d", ErrProtocol, number)
	}
	if err := serve(s, ctx); err != nil {
		return err
	}
	return s.out.Flush()
}

func (s *legacySession) greet() error {
	if magic := s.in.Uint64(); magic != legacyClientMagic {
		if err := s.in.Err(); err != nil {
			return notJustEOF(err)
		}
		return fmt.Errorf("%w: the client began with %#x", ErrProtocol, magic)
	}
	s.out.Uint64(legacyServerMagic)
	s.out.Uint64(uint64(LegacyLatest))
	if err := s.out.Flush(); err != nil {
		return err
	}
	s.version = min(LegacyVersion(s.in.Uint64()&0xffff), LegacyLatest)
	if err := s.in.end(); err != nil {
		return notJustEOF(err)
	}
	if s.version < LegacyMinimumServed {
		return fmt.Errorf("%w: the client speaks the serve protocol %s, at least %s is needed", ErrTooOld, s.version, LegacyMinimumServed)
	}
	return nil
}
