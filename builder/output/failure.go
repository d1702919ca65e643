package output

import (
	"fmt"

	"github.com/strata-nix/strata/store"
)

// Failure says why there is nothing to register although the builder succeeded.
// It is the fault of the derivation, not of the store.
type Failure struct {
	// Status is OutputRejected, HashMismatch or NotDeterministic.
	Status store.BuildStatus
	// Message is upstream's, in which paths of derivations and outputs are quoted.
	Message string
	Err     error // what the message is about, or nil
}

func (f *Failure) Error() string { return f.Message }

func (f *Failure) Unwrap() error { return f.Err }

// rejectf makes the failure of an output that cannot be.
func rejectf(format string, args ...any) *Failure {
	return &Failure{Status: store.OutputRejected, Message: fmt.Sprintf(format, args...)}
}
