// Package activity carries what a long operation has to tell while it runs:
// log lines, and Nix's activities with their progress.
//
// The operation finds its [Sink] in the context, so that nothing between the
// connection and the worker has to pass it on:
//
//	ctx, act := activity.Start(ctx, activity.Info, activity.CopyPath, "copying …")
//	defer act.Stop()
//	act.Progress(done, expected, 0, 0)
//
// Without a Sink in the context all of it costs nothing and goes nowhere.
//
// Source of levels, types and results: the numbers that stock Nix sends.
package activity

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
)

// Level says who wants to see a line, in Nix's order: lower is more urgent.
type Level uint64

// The levels.
const (
	Error Level = iota
	Warn
	Notice
	Info
	Talkative
	Chatty
	Debug
	Vomit
)

// Type says what kind of work an activity is.
type Type uint64

// The types.
const (
	Unknown       Type = 0
	CopyPath      Type = 100 // fields: path, from URI, to URI
	FileTransfer  Type = 101 // fields: URI
	Realise       Type = 102
	CopyPaths     Type = 103
	Builds        Type = 104
	Build         Type = 105 // fields: derivation, machine, round, rounds
	OptimiseStore Type = 106
	VerifyPaths   Type = 107
	Substitute    Type = 108 // fields: path, URI
	QueryPathInfo Type = 109 // fields: path, URI
	PostBuildHook Type = 110 // fields: derivation
	BuildWaiting  Type = 111
	FetchTree     Type = 112
	// HashContents is ours: bytes of objects that are compared with their hashes. Stock
	// clients pass over types that they do not know.
	HashContents Type = 0x5354_0001
)

// ResultType says what a result of an activity is.
type ResultType uint64

// The results.
const (
	FileLinked       ResultType = 100
	BuildLogLine     ResultType = 101
	UntrustedPath    ResultType = 102
	CorruptedPath    ResultType = 103
	SetPhase         ResultType = 104
	Progress         ResultType = 105 // fields: done, expected, running, failed
	SetExpected      ResultType = 106 // fields: activity type, count
	PostBuildLogLine ResultType = 107
	FetchStatus      ResultType = 108

	// InputsFetched is of a Build, and of ours: the field is the number of bytes that came
	// from elsewhere as it read its inputs.
	InputsFetched ResultType = 0x5354_0001
)

// Field is a value attached to an activity or a result: an integer or a text.
type Field struct {
	Text   string
	Int    uint64
	IsText bool
}

// Int makes a field of a number.
func Int(n uint64) Field { return Field{Int: n} }

// Text makes a field of a text.
func Text(s string) Field { return Field{Text: s, IsText: true} }

// Event is the start of an activity.
type Event struct {
	ID     uint64
	Parent uint64 // 0: none
	Level  Level
	Type   Type
	Text   string // for people; may be empty
	Fields []Field
}

// Sink receives what operations tell. Its methods may be called by several
// goroutines, must not block for long, and must not fail: a sink whose other
// side is gone swallows.
type Sink interface {
	Log(level Level, text string)
	Start(Event)
	Stop(id uint64)
	Result(id uint64, what ResultType, fields []Field)
}

type sinkKey struct{}

// place is what the context holds: the sink and the activity that is under way.
type place struct {
	sink   Sink
	parent uint64
}

// With gives the operations under ctx a sink.
func With(ctx context.Context, s Sink) context.Context {
	return context.WithValue(ctx, sinkKey{}, place{sink: s})
}

func at(ctx context.Context) place {
	p, _ := ctx.Value(sinkKey{}).(place)
	return p
}

// Logf tells a line.
func Logf(ctx context.Context, level Level, format string, args ...any) {
	if p := at(ctx); p.sink != nil {
		p.sink.Log(level, fmt.Sprintf(format, args...))
	}
}

// Warnf tells a warning, with the word before it that people look for.
func Warnf(ctx context.Context, format string, args ...any) {
	Logf(ctx, Warn, "warning: "+format, args...)
}

// WarnOf tells an error that does not stop anything as a warning, with further lines
// below the first, as Nix shows errors.
func WarnOf(ctx context.Context, err error) {
	say(ctx, Warn, "warning: ", "%v", err)
}

// Errorf tells an error, with further lines likewise.
func Errorf(ctx context.Context, format string, args ...any) {
	say(ctx, Error, "error: ", format, args...)
}

func say(ctx context.Context, level Level, word, format string, args ...any) {
	p := at(ctx)
	if p.sink == nil {
		return
	}
	lines := strings.Split(strings.TrimRight(fmt.Sprintf(format, args...), "\n"), "\n")
	for i, line := range lines {
		if i > 0 && line != "" {
			lines[i] = strings.Repeat(" ", len(word)) + line
		}
	}
	p.sink.Log(level, word+strings.Join(lines, "\n"))
}

// SinkOf gives the sink of ctx and the activity that is under way, 0 if none is.
// The sink is nil if there is none.
func SinkOf(ctx context.Context) (s Sink, parent uint64) {
	p := at(ctx)
	return p.sink, p.parent
}

var lastID atomic.Uint64

// Activity is one that has been started. Its methods are for any goroutine.
type Activity struct {
	sink Sink
	id   uint64
}

// Start begins an activity below the one that ctx is in; what is started under
// the returned context lies below it. Stop must be called.
func Start(ctx context.Context, level Level, kind Type, text string, fields ...Field) (context.Context, *Activity) {
	p := at(ctx)
	if p.sink == nil {
		return ctx, &Activity{}
	}
	a := &Activity{sink: p.sink, id: lastID.Add(1)}
	p.sink.Start(Event{ID: a.id, Parent: p.parent, Level: level, Type: kind, Text: text, Fields: fields})
	return context.WithValue(ctx, sinkKey{}, place{sink: p.sink, parent: a.id}), a
}

// Stop ends the activity.
func (a *Activity) Stop() {
	if a.sink != nil {
		a.sink.Stop(a.id)
	}
}

// Progress tells how far it is, in units that its type implies (bytes, paths).
func (a *Activity) Progress(done, expected, running, failed uint64) {
	a.Result(Progress, Int(done), Int(expected), Int(running), Int(failed))
}

// Result tells something else.
func (a *Activity) Result(what ResultType, fields ...Field) {
	if a.sink != nil {
		a.sink.Result(a.id, what, fields)
	}
}
