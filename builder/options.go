package builder

import (
	"time"
)

// Defaults of nix.conf.
const (
	DefaultMaxJobs             = 1
	DefaultMaxSubstitutionJobs = 16
	DefaultPollInterval        = 5 * time.Second
)

// Options are the settings of nix.conf that say what is built, when and how
// often, named as there. See [Options.Override] for those that a client may
// change for itself.
type Options struct {
	// MaxJobs is how many builds of one request run at once; 0: none ("max-jobs").
	MaxJobs uint
	// MaxSubstitutionJobs is how many objects are fetched at once
	// ("max-substitution-jobs").
	MaxSubstitutionJobs uint
	// KeepGoing builds what can be built after a failure ("keep-going").
	KeepGoing bool
	// Fallback builds what could not be fetched although a substituter has it
	// ("fallback").
	Fallback bool
	// NoSubstitute asks no substituters ("substitute" is false).
	NoSubstitute bool
	// AlwaysAllowSubstitutes disregards the attribute allowSubstitutes of
	// derivations ("always-allow-substitutes").
	AlwaysAllowSubstitutes bool

	// System is what is built for here, "x86_64-linux" ("system").
	System string
	// ExtraPlatforms are other systems that this machine can build for
	// ("extra-platforms").
	ExtraPlatforms []string
	// SystemFeatures are what derivations may require of this machine
	// ("system-features").
	SystemFeatures []string
	// ExperimentalFeatures of Nix that are on ("experimental-features").
	ExperimentalFeatures []string

	// PollInterval is how often a lock that another process has is tried, at most
	// ("build-poll-interval").
	PollInterval time.Duration
}
