package output

import (
	"context"

	"github.com/strata-nix/strata/store"
)

// Register makes the outputs of a job valid. s must have the abilities
// store.Directory, store.Registrar and [Installer], and with
// [Options.Realisations] store.RealisationRegistrar.
//
// An error that is a [*Failure] is one of the build; any other says that it could
// not be seen through. After both, nothing is valid that was not before, with one
// exception: objects that are addressed by their contents, such as a fixed output
// with an unexpected hash, are kept, so that nobody has to make them again. What then
// is left at the scratch paths is the caller's to remove or to keep; after a success
// nothing is.
func Register(ctx context.Context, s store.Store, job *Job, o Options) (*Result, error) {
	r, err := newRegistration(s, job, o)
	if err != nil {
		return nil, err
	}
	defer r.close()
	return r.run(ctx)
}
