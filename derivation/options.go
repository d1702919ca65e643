package derivation

import (
	"slices"

	"github.com/strata-nix/strata/storepath"
)

// Options are what the attributes of a derivation say about how it is to be
// built and what may come of it. They are read by [Basic.Options]. Lists are
// sorted, without doubles.
// Source: the Nix manual, "Advanced attributes".
type Options struct {
	// Structured are the structured attributes; nil if the attributes are plain
	// variables of the environment.
	Structured *StructuredAttrs

	// AllChecks go for every output, in a derivation without structured attributes;
	// with them there is nil, and OutputChecks has those of each. See
	// [Options.Checks].
	AllChecks    *OutputChecks
	OutputChecks map[string]*OutputChecks
	// UnsafeDiscardReferences are the outputs whose references are not looked for.
	UnsafeDiscardReferences map[string]bool

	// PassAsFile are the variables that are given as files.
	PassAsFile []string
	// ExportReferencesGraph maps names, of files or of structured attributes, to
	// objects whose graph of references the builder wants to know.
	ExportReferencesGraph map[string][]storepath.Path

	// NoChroot asks for a build without sandbox (__noChroot).
	NoChroot bool
	// ImpureHostDeps are paths of the machine that the sandbox is to show
	// (__impureHostDeps).
	ImpureHostDeps []string
	// ImpureEnvVars are taken from whoever runs the build, if its outputs are fixed.
	ImpureEnvVars []string
	// AdditionalSandboxProfile and AllowLocalNetworking mean something on macOS only
	// (__sandboxProfile, __darwinAllowLocalNetworking).
	AdditionalSandboxProfile string
	AllowLocalNetworking     bool

	// RequiredSystemFeatures as the attribute says; see [Options.SystemFeatures].
	RequiredSystemFeatures []string
	// PreferLocalBuild says that sending it elsewhere is not worth it.
	PreferLocalBuild bool
	// AllowSubstitutes is false if building is preferred to fetching.
	AllowSubstitutes bool

	// Warnings are what a user should hear about attributes that have no effect.
	Warnings []string
}

// OutputChecks restrict what an output may be.
type OutputChecks struct {
	// IgnoreSelf lets an output be among its own requisites whatever those lists say.
	IgnoreSelf bool
	// MaxSize and MaxClosureSize are bytes of the NARs; nil: any.
	MaxSize, MaxClosureSize *uint64
	// AllowedReferences and AllowedRequisites: nil allows all, and an empty list
	// nothing.
	AllowedReferences, AllowedRequisites       []CheckRef
	DisallowedReferences, DisallowedRequisites []CheckRef
}

// CheckRef is what checks of outputs speak about: a store object, or by its name
// an output of the derivation itself. It is comparable.
type CheckRef struct {
	Path   storepath.Path
	Output string // if Path is zero; not necessarily one that the derivation has
}

// Checks are those of an output, nil if there are none.
func (o *Options) Checks(output string) *OutputChecks {
	if o.AllChecks != nil {
		return o.AllChecks
	}
	return o.OutputChecks[output]
}

// SystemFeatures are what a machine must have to build the derivation: what it
// says itself, and "ca-derivations" if its output paths are not known before.
func (o *Options) SystemFeatures(k Kind) []string {
	features := slices.Clone(o.RequiredSystemFeatures)
	if !k.HasKnownPath() {
		features = sortNames(append(features, "ca-derivations"))
	}
	return features
}

// UIDRange tells that the build wants many users for itself.
func (o *Options) UIDRange() bool { return slices.Contains(o.RequiredSystemFeatures, "uid-range") }

// RecursiveNix tells that the build wants to use the store itself.
func (o *Options) RecursiveNix() bool {
	return slices.Contains(o.RequiredSystemFeatures, "recursive-nix")
}
