package derivation

import (
	"errors"
	"fmt"
)

// Sentinels.
var (
	// ErrFormat is the cause of every error about bytes that are not a derivation.
	ErrFormat = errors.New("malformed derivation")
	// ErrInvalid is the cause of every error about a derivation that could be read
	// but contradicts itself.
	ErrInvalid = errors.New("invalid derivation")
)

// SyntaxError says where the text of a derivation is wrong.
type SyntaxError struct {
	Name   string // of the derivation
	Offset int    // bytes before the fault
	Why    string
	Err    error // what is wrong with a value, or nil
}

func (e *SyntaxError) Error() string {
	s := fmt.Sprintf("error parsing derivation '%s' at byte %d: %s", clip(e.Name), e.Offset, e.Why)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap makes it an ErrFormat.
func (e *SyntaxError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrFormat}
	}
	return []error{ErrFormat, e.Err}
}

// IncorrectOutputError says that an output is not where the derivation says.
type IncorrectOutputError struct {
	Derivation string // path in full
	Output     string
	// Got is the path that the derivation has. Want is the one that follows from
	// it, "" where it cannot be known before the build.
	Got, Want string
	// Env tells that it is the variable named like the output that is wrong; Got is
	// its value then, and Missing tells that there is none.
	Env, Missing bool
}

func (e *IncorrectOutputError) Error() string {
	switch {
	case e.Missing:
		return fmt.Sprintf("derivation '%s' has missing environment variable '%s', should be '%s' but is not present", e.Derivation, e.Output, e.Want)
	case e.Env:
		return fmt.Sprintf("derivation '%s' has incorrect environment variable '%s', should be '%s' but is actually '%s'", e.Derivation, e.Output, e.Want, clip(e.Got))
	case e.Want == "":
		return fmt.Sprintf("derivation '%s' has incorrect output '%s', should be deferred", e.Derivation, e.Got)
	}
	return fmt.Sprintf("derivation '%s' has incorrect output '%s', should be '%s'", e.Derivation, e.Got, e.Want)
}

// Unwrap makes it an ErrInvalid.
func (e *IncorrectOutputError) Unwrap() error { return ErrInvalid }

// clip keeps a hostile text from filling a log.
func clip(s string) string {
	const limit = 300
	if len(s) > limit {
		return s[:limit] + "…"
	}
	return s
}
