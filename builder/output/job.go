package output

import (
	"context"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/trust"
)

// Job is a derivation whose builder has succeeded, and nothing of which runs any
// more.
type Job struct {
	// DrvPath is the name under which it was built, and which the outputs get as
	// deriver.
	DrvPath storepath.Path
	// Drv is the resolved derivation, Attrs its options.
	Drv   *derivation.Basic
	Attrs *derivation.Options
	Mode  store.BuildMode
	// Inputs are the infos of the closure of the inputs, in no particular order.
	Inputs []*store.PathInfo
	// Added are valid paths that the builder came to know of while it ran, through
	// a recursive Nix, in no particular order.
	Added []storepath.Path
	// Hashes are those of the derivation modulo its inputs, by output: the ids of
	// the realisations.
	Hashes map[string]nixhash.Hash
	// Outputs are all outputs of Drv, by name.
	Outputs map[string]Output
	// Roots gets the paths that are known only now, before they are valid. May be
	// nil.
	Roots store.TempRoots
	// BuildDir is the builder's own directory, which the diff hook is told.
	BuildDir string
}

// Output is one output of a derivation that has been built.
type Output struct {
	// Path is where it is or will be, as far as that was known before the build;
	// zero if it was not. The caller holds its lock.
	Path storepath.Path
	// Valid tells that Path is valid. Such an output is passed over, except in the
	// modes repair, where it is replaced unless Intact, and check.
	Valid, Intact bool
	// Scratch is the path that the builder knew it by: Path where the builder could
	// write to that.
	Scratch storepath.Path
	// Real is where it lies on disk.
	Real string
}

// skip tells that there is nothing to be done about the output.
func (o *Output) skip(mode store.BuildMode) bool {
	if o.Path.IsZero() || !o.Valid {
		return false
	}
	return mode == store.BuildNormal || mode == store.BuildRepair && o.Intact
}

// Owner is a user and his group.
type Owner struct{ UID, GID uint32 }

// Options say how outputs are registered. The zero value is for a build by the
// process's own user.
type Options struct {
	// Builder is the build user, who must own the outputs and runs the diff hook; nil:
	// this process's.
	Builder *Owner
	// Owners are the users that may own what is in the outputs; Builder alone if nil.
	Owners *nar.UIDRange
	// IgnoredACLs are extended attributes that may stay ("ignored-acls"); nil: upstream's
	// default.
	IgnoredACLs []string
	// Keys sign what is registered ("secret-key-files").
	Keys []trust.SecretKey
	// Realisations are registered: the experimental feature ca-derivations is on.
	Realisations bool
	// KeepFailed keeps an output that differs from the valid one, next to it, as
	// <path>.check ("keep-failed").
	KeepFailed bool
	// DiffHook is told of outputs that differ ("diff-hook", if "run-diff-hook"), which
	// are kept then, too. A name without a slash is looked for in PATH.
	DiffHook string
}

// Result is what has been registered, by the names of the outputs.
type Result struct {
	// Infos are those of the outputs that this build made; of none in check mode.
	Infos map[string]*store.PathInfo
	// Realisations are of all outputs, those included that were valid before;
	// of none in check mode.
	Realisations map[string]*store.Realisation
}

// Installer is the ability of a store to take in objects that are files already.
type Installer interface {
	// TempDir makes a private directory on the file system of the store directory.
	// remove deletes it with all that is in it.
	TempDir(ctx context.Context) (dir string, remove func(), err error)
	// LockPath keeps other processes from making p until unlock is called. Without
	// wait, unlock is nil if somebody else has the lock.
	LockPath(ctx context.Context, p storepath.Path, wait bool) (unlock func(), err error)
	// Install moves the object at from, which has canonical metadata, to the place
	// of p, whose lock the caller has, unless it is there already. What lies there makes
	// way, at one stroke where the file system can do that. p is not valid by that.
	Install(ctx context.Context, from string, p storepath.Path) error
	// Withdraw removes what was installed as p and could not be registered, unless p is
	// valid all the same.
	Withdraw(ctx context.Context, p storepath.Path)
}
