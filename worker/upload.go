package worker

import (
	"bufio"
	"errors"
	"io"

	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/wire"
)

// narBuffer is what package nar wants below it.
const narBuffer = 64 << 10

// framed serves the part of a request that comes in frames. When f fails the
// client is told at once, so that it can stop; what it still sends is dropped.
func (s *session) framed(f func(io.Reader) error) error {
	frames := wire.NewFrameReader(s.in.Reader)
	err := s.start()
	if s.in.Err() != nil {
		return err
	}
	if err == nil {
		err = f(frames)
	}
	if err == nil {
		return frames.Drain()
	}
	s.fail(err)
	if err := s.out.Flush(); err != nil {
		return err
	}
	if err := frames.Drain(); err != nil {
		return err
	}
	return errors.Join(errAnswered, err)
}

// inline serves the part of a request that is a bare NAR, whose end only the NAR
// itself tells. If it does not, because it is malformed, the connection is lost.
func (s *session) inline(f func(io.Reader) error) error {
	if err := s.start(); s.in.Err() != nil {
		return err
	} else if err != nil {
		s.fail(err)
		f = func(io.Reader) error { return errors.Join(errAnswered, err) }
	}
	archive := nar.NewStream(s.in.Reader)
	defer archive.Close()
	err := f(archive)
	if skipErr := archive.Skip(); skipErr != nil {
		s.in.Fail(skipErr)
	}
	return err
}

// tunnelled serves the part of a request that the client sends as it is asked
// for, piece by piece.
func (s *session) tunnelled(f func(io.Reader) error) error {
	if err := s.start(); err != nil {
		return err
	}
	archive := nar.NewStream(bufio.NewReaderSize(&asker{s: s}, narBuffer))
	defer archive.Close()
	return f(archive)
}

// asker asks the client for the bytes that are read.
type asker struct{ s *session }

func (a *asker) Read(p []byte) (int, error) {
	if err := a.s.tunnel.direct(func(w *wire.Writer) {
		w.Uint64(msgRead)
		w.Uint64(uint64(len(p)))
	}); err != nil {
		return 0, err
	}
	b := a.s.in.Bytes(uint64(len(p)))
	if err := a.s.in.Err(); err != nil {
		return 0, err
	}
	if len(b) == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	return copy(p, b), nil
}
