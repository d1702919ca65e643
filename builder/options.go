package builder

import (
	"fmt"
	"slices"
	"time"

	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/builder/remote"
)

// Options are the settings of nix.conf that say what is built, and when, named
// as there. See [Options.Override] for those that a client may change for itself.
type Options struct {
	// Execute are those that say how.
	Execute execute.Options

	// MaxJobs is how many builds of one request run at once; 0: none ("max-jobs").
	MaxJobs uint
	// KeepGoing builds what can be built after a failure ("keep-going").
	KeepGoing bool
	// Fallback builds what could not be fetched although a substituter has it
	// ("fallback").
	Fallback bool
	// AlwaysAllowSubstitutes disregards the attribute allowSubstitutes of
	// derivations ("always-allow-substitutes").
	AlwaysAllowSubstitutes bool

	// System is what is built for here, "x86_64-linux" ("system").
	System string
	// ExtraPlatforms are other systems that this machine can build for
	// ("extra-platforms").
	ExtraPlatforms []string
	// Builders are the machines that build for this one ("builders"); files that it
	// names are read anew for each request.
	Builders string
	// BuildersUseSubstitutes has them get from substituters what they can
	// ("builders-use-substitutes").
	BuildersUseSubstitutes bool
	// BuildHook is a program, with arguments, that is asked instead ("build-hook").
	BuildHook []string
	// PollInterval is how long to wait before a machine is asked again that had no
	// place ("build-poll-interval").
	PollInterval time.Duration
	// OpenMachine opens the store of a machine. nil: nothing is built elsewhere.
	OpenMachine remote.Opener

	// DiffHook is Execute.DiffHook, if RunDiffHook ("diff-hook", "run-diff-hook").
	DiffHook    string
	RunDiffHook bool
}

// The experimental features of Nix that make a difference here.
const (
	featureCA        = "ca-derivations"
	featureImpure    = "impure-derivations"
	featureRecursive = "recursive-nix"
)

func (o *Options) has(feature string) bool { return slices.Contains(o.Execute.Features, feature) }

// require is the error of an experimental feature that is off.
func (o *Options) require(features ...string) error {
	for _, f := range features {
		if !o.has(f) {
			return fmt.Errorf("experimental Nix feature '%s' is disabled; add '--extra-experimental-features %s' to enable it", f, f)
		}
	}
	return nil
}
