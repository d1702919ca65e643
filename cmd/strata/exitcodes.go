package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/strata-nix/strata/export"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/registration"
	"github.com/strata-nix/strata/store"
)

// exitCode is the exit status of the process. exitStatuses tells what they mean.
type exitCode int

const (
	exitOK          exitCode = 0
	exitError       exitCode = 1
	exitUsage       exitCode = 2
	exitAbsent      exitCode = 3
	exitDamaged     exitCode = 4
	exitInterrupted exitCode = 130 // 128 + SIGINT
	exitTerminated  exitCode = 143 // 128 + SIGTERM
	exitPipe        exitCode = 141 // 128 + SIGPIPE
)

// exitStatuses ends the help of each command.
const exitStatuses = `Exit status:
  0    done
  1    an error that is none of the following
  2    the command line, the configuration or a store URI makes no sense; nothing was done
  3    what was asked about is not there: a path is not valid, an object has no such file,
       one path does not depend on another
  4    contents are not what they should be: a hash, a size, a signature, a damaged store or archive,
       an export or a registration that is none
  100  a build failed; 101: it took too long; 102: the output of a fixed-output derivation is
       another one than was promised; 104: a build made something else than before; 105, 106,
       107, 108…: several of these, as a sum of bits
  130  interrupted by Ctrl-C; 143: by SIGTERM; 141: nobody reads the output`

// usageError is a mistake of whoever gave the command.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// exitStatus is that of a child, which has told itself what was wrong.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// errAbsent is the cause of errors about something inside the store that is not
// there, besides store.ErrNotValid.
var errAbsent = errors.New("not there")

// absentError says what is not there, in a sentence of its own.
type absentError struct{ what string }

func (e *absentError) Error() string { return e.what }
func (e *absentError) Unwrap() error { return errAbsent }

// exitCodeOf is the one place where errors become exit statuses.
func exitCodeOf(err error) exitCode {
	var usage *usageError
	var malformed *nar.FormatError
	var child exitStatus
	var builds interface{ ExitStatus() uint64 }
	var unwell *unwellError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &child):
		return exitCode(child)
	case errors.Is(err, errOutputClosed):
		return exitPipe
	case errors.As(err, &builds) && builds.ExitStatus() > 1:
		return exitCode(builds.ExitStatus()) //nolint:gosec // a few bits
	case errors.As(err, &usage), errors.Is(err, store.ErrReference):
		return exitUsage
	case errors.Is(err, errTerminated):
		return exitTerminated
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.As(err, &unwell), errors.Is(err, store.ErrDamaged), errors.Is(err, store.ErrMismatch), errors.Is(err, store.ErrNoSignature),
		errors.As(err, &malformed), errors.Is(err, export.ErrFormat), errors.Is(err, registration.ErrFormat):
		return exitDamaged
	case errors.Is(err, store.ErrNotValid), errors.Is(err, errAbsent):
		return exitAbsent
	}
	return exitError
}
