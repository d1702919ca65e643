package check

import (
	"context"
	"errors"

	"github.com/strata-nix/strata/overlayfs"
)

// findWrongMount compares what is mounted with the layers.
func findWrongMount(_ context.Context, x *examination, say func(*Finding)) error {
	if x.Mount == nil || !x.selected[0] {
		return nil
	}
	err := overlayfs.Verify(x.RealDir, *x.Mount)
	var bad *overlayfs.MismatchError
	if errors.As(err, &bad) {
		say(&Finding{Path: x.RealDir, Detail: bad.Error()})
		return nil
	}
	return err
}
