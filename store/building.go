package store

import (
	"context"
	"time"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/storepath"
)

// Missing is what would have to be done to have some derived paths.
type Missing struct {
	WillBuild      []storepath.Path // derivations
	WillSubstitute []storepath.Path
	Unknown        []storepath.Path // neither valid nor to be had
	DownloadSize   uint64           // bytes
	NarSize        uint64           // bytes after unpacking
}

// Planner tells what is missing, without doing anything about it.
type Planner interface {
	QueryMissing(ctx context.Context, targets []derivation.DerivedPath) (*Missing, error)
}

// Ensurer makes a path valid by the means that the store has.
type Ensurer interface {
	EnsurePath(ctx context.Context, p storepath.Path) error
}

// BuildMode says what a build does with outputs that are there.
type BuildMode uint8

// The modes, in the numbers of the worker protocol.
const (
	BuildNormal BuildMode = 0
	BuildRepair BuildMode = 1
	BuildCheck  BuildMode = 2
)

// BuildResult is the outcome for one derived path.
type BuildResult struct {
	Path   derivation.DerivedPath
	Status BuildStatus
	// Message is the error, if Status is one.
	Message string
	// ExitStatus is what a command should exit with that made the request, if Status
	// is an error: see [ExitStatus]. It knows of dependencies that failed, which Status
	// does not; 0: only Status is known.
	ExitStatus       uint64
	TimesBuilt       uint64
	NonDeterministic bool
	Start, Stop      int64 // seconds since 1970
	// CPUUser and CPUSystem are what the build used; 0: not known.
	CPUUser, CPUSystem time.Duration
	// Fetched is how many bytes of inputs came from elsewhere as the build read them. It is known
	// only where the build ran.
	Fetched uint64
	// Outputs by name.
	Outputs map[string]*Realisation
}

// BuildStatus is the outcome of a build, in the numbers of the worker protocol.
type BuildStatus uint8

// The outcomes.
const (
	Built                  BuildStatus = 0
	Substituted            BuildStatus = 1
	AlreadyValid           BuildStatus = 2
	PermanentFailure       BuildStatus = 3
	InputRejected          BuildStatus = 4
	OutputRejected         BuildStatus = 5
	TransientFailure       BuildStatus = 6
	CachedFailure          BuildStatus = 7
	TimedOut               BuildStatus = 8
	MiscFailure            BuildStatus = 9
	DependencyFailed       BuildStatus = 10
	LogLimitExceeded       BuildStatus = 11
	NotDeterministic       BuildStatus = 12
	ResolvesToAlreadyValid BuildStatus = 13
	NoSubstituters         BuildStatus = 14
	// HashMismatch is an OutputRejected with an exit status of its own. The protocol
	// does not know it.
	HashMismatch BuildStatus = 15
)

// OK tells that what was wanted is there.
func (s BuildStatus) OK() bool {
	return s == Built || s == Substituted || s == AlreadyValid || s == ResolvesToAlreadyValid
}

// Bits of an exit status after failures.
const (
	exitFailed           = 0b110_0000 // set with each of the others
	exitBuild            = 0b000_0100
	exitTimedOut         = 0b000_0001
	exitHashMismatch     = 0b000_0010
	exitNotDeterministic = 0b000_1000
)

// ExitStatus is what Nix's commands exit with when builds failed with these
// statuses: 1, or a sum of bits, so that it may be put together with others by
// "|" when it is not 1.
// Source: the Nix manual, "nix-store --realise", "Special exit codes".
func ExitStatus(failed ...BuildStatus) uint64 {
	var mask uint64
	for _, s := range failed {
		switch s {
		case PermanentFailure, InputRejected, CachedFailure:
			mask |= exitFailed | exitBuild
		case TimedOut:
			mask |= exitFailed | exitBuild | exitTimedOut
		case HashMismatch:
			mask |= exitFailed | exitBuild | exitHashMismatch
		case NotDeterministic:
			mask |= exitFailed | exitNotDeterministic
		}
	}
	return max(mask, 1)
}

// Builder realises derived paths.
type Builder interface {
	// BuildPaths gives a result for each target, in their order; nil for a target
	// that was given up because another one failed. The error is for what concerns no
	// single target.
	BuildPaths(ctx context.Context, targets []derivation.DerivedPath, mode BuildMode) ([]*BuildResult, error)
}

// DerivationBuilder builds what another machine has planned: a derivation whose
// inputs are built and valid, and which need not be in the store itself.
type DerivationBuilder interface {
	// BuildDerivation builds b, which is known as drv. Who calls it answers for it
	// that b may have the output paths that it names. A build that fails is a result, not
	// an error.
	BuildDerivation(ctx context.Context, drv storepath.Path, b *derivation.Basic, mode BuildMode) (*BuildResult, error)
}
