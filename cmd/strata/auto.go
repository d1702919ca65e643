package main

import (
	"cmp"
	"context"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
)

// resolveAuto finds the store that the word auto means: this machine's, opened
// by ourselves if we may write to its state; else its daemon, if there is one;
// else, for a user on a machine without Nix, one in the home directory.
// Source: the Nix manual, "Store URL format", auto.
func (c *config) resolveAuto(ctx context.Context, ref store.Reference) store.Reference {
	local := store.Reference{Scheme: "local", Params: ref.Params}
	state := cmp.Or(ref.Param("state"), c.stateDir)
	switch {
	case unix.Access(state, unix.R_OK|unix.W_OK) == nil:
		return local
	case exists(c.socket):
		return store.Reference{Scheme: "unix", Params: ref.Params}
	case exists(state) || len(ref.Params) > 0 || os.Geteuid() == 0 || c.ownPlaces || c.dataHome == "":
		return local
	}
	root := filepath.Join(c.dataHome, "root")
	if !exists(root) {
		if err := os.MkdirAll(root, 0o755); err != nil {
			return local
		}
		activity.Warnf(ctx, "'%s' does not exist, so '%s' is used as a chroot store", state, root)
	}
	return store.Reference{Scheme: "local", Params: map[string][]string{"root": {root}}}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
