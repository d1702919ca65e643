package nixconf

import (
	"errors"
	"fmt"
)

// ErrConfig is the cause of every error about configuration that cannot be
// understood.
var ErrConfig = errors.New("malformed configuration")

// Origin is where something was set.
type Origin struct {
	File string // a path, or what stands for one: "NIX_CONFIG", "command line"
	Line int    // from 1; 0 where there are no lines
}

// String is "file:line", "" for the zero Origin.
func (o Origin) String() string {
	if o.Line == 0 {
		return o.File
	}
	return fmt.Sprintf("%s:%d", o.File, o.Line)
}

// Error says what is wrong where.
type Error struct {
	Origin Origin
	Why    string
	Err    error // may be nil
}

func (e *Error) Error() string {
	s := e.Why
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if o := e.Origin.String(); o != "" {
		s = o + ": " + s
	}
	return s
}

// Unwrap makes it an ErrConfig.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrConfig}
	}
	return []error{ErrConfig, e.Err}
}

func fault(o Origin, format string, args ...any) error {
	return &Error{Origin: o, Why: fmt.Sprintf(format, args...)}
}

// Warning is about something that is passed over.
type Warning struct {
	Origin Origin
	Text   string

	unknown string // what no setting is called; its likeness is looked for when somebody reads on
}

// String is the text with its origin.
func (w Warning) String() string {
	if o := w.Origin.String(); o != "" {
		return w.Text + " (" + o + ")"
	}
	return w.Text
}
