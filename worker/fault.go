package worker

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"syscall"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/wire"
)

// Fault is an error in the form that the protocol has for it: what a daemon told
// the [Client].
type Fault struct {
	Level   activity.Level
	Message string
	// Traces say in what the error happened, the outermost last.
	Traces []string
	// Status is what the client should exit with, 1 unless the build says more.
	Status uint64
}

func (f *Fault) Error() string { return f.Message }

// kinds finds the sentinel of a message by words that every version has.
var kinds = []struct {
	words string
	kind  error
}{
	{"lacks a signature by a trusted key", store.ErrNoSignature},
	{"lacks a valid signature", store.ErrNoSignature},
	{"hash mismatch", store.ErrMismatch},
	{"size mismatch", store.ErrMismatch},
	{"since it is still alive", store.ErrAlive},
	{"not supported by store", store.ErrUnsupported},
	{"invalid operation", store.ErrUnsupported},
	{"not privileged", store.ErrNotPrivileged},
	{"because you are not in 'trusted-users'", store.ErrNotPrivileged},
	{"is damaged", store.ErrDamaged},
	{"store is read-only", store.ErrReadOnly},
	{"is not valid", store.ErrNotValid},
}

// Is makes it the sentinel that the daemon meant, as far as the message tells.
func (f *Fault) Is(target error) bool {
	for _, k := range kinds {
		if strings.Contains(f.Message, k.words) {
			return k.kind == target
		}
	}
	return false
}

// faultOf is the one place where errors become what a client gets.
//
// Errors anywhere in the chain may have a method ExitStatus() uint64, and one
// Traces() []string.
func faultOf(err error) *Fault {
	f := &Fault{Level: activity.Error, Message: inWordsOfC(err), Status: 1}
	var remote *Fault
	if errors.As(err, &remote) {
		f.Level, f.Status, f.Traces = remote.Level, remote.Status, remote.Traces
	}
	var status interface{ ExitStatus() uint64 }
	if errors.As(err, &status) {
		f.Status = status.ExitStatus()
	}
	var traces interface{ Traces() []string }
	if errors.As(err, &traces) {
		f.Traces = traces.Traces()
	}
	switch {
	case errors.Is(err, context.Canceled):
		f.Message = "interrupted: the connection or the daemon is closing"
	case errors.Is(err, context.DeadlineExceeded):
		f.Message = "timed out: " + f.Message
	}
	return f
}

// inWordsOfC is the text of an error with errnos as the C library has them, which
// scripts look for in what Nix prints: they begin with a capital.
func inWordsOfC(err error) string {
	text := err.Error()
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return text
	}
	words := errno.Error()
	return strings.ReplaceAll(text, ": "+words, ": "+strings.ToUpper(words[:1])+words[1:])
}

// fault writes an error instead of an answer.
func (e *encoder) fault(f *Fault) {
	e.Uint64(msgError)
	if e.version < v1+26 {
		e.Text(f.Message)
		e.Uint64(f.Status)
		return
	}
	e.Text("Error")
	e.Uint64(uint64(f.Level))
	e.Text("Error") // was the error's name
	e.Text(f.Message)
	e.Uint64(0) // no position
	e.Uint64(uint64(len(f.Traces)))
	for _, t := range f.Traces {
		e.Uint64(0) // no position
		e.Text(t)
	}
}

// fault is the inverse of encoder.fault, after the number of the message.
func (d *decoder) fault() *Fault {
	f := &Fault{Status: 1}
	if d.version < v1+26 {
		f.Message = plain(d.Text())
		f.Status = d.Uint64()
		return f
	}
	if s := d.Text(); s != "Error" && d.Err() == nil {
		d.Fail(errors.Join(wire.ErrFormat, errors.New("an error of an unknown kind")))
	}
	f.Level = activity.Level(d.Uint64())
	d.Text()
	f.Message = plain(d.Text())
	d.Int(0) // no position
	for range d.Int(maxTraces) {
		d.Int(0)
		f.Traces = append(f.Traces, plain(d.Text()))
		if d.Err() != nil {
			break
		}
	}
	return f
}

var colours = regexp.MustCompile("\x1b\\[[0-9;]*m")

// plain takes away the colours that stock daemons put in their messages.
func plain(s string) string {
	if strings.IndexByte(s, 0x1b) < 0 {
		return s
	}
	return colours.ReplaceAllString(s, "")
}

// privilegeError has the words of stock daemons, which scripts look for.
type privilegeError string

func denied(why string) error { return privilegeError(why) }

func (e privilegeError) Error() string { return string(e) }

// Unwrap makes it a store.ErrNotPrivileged.
func (e privilegeError) Unwrap() error { return store.ErrNotPrivileged }
