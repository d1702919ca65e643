package local

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/strata-nix/strata/trust"
)

// overrides are the settings that a client may change for itself.
var overrides = map[string]func(o *Options, value string) error{
	"require-sigs":               onBool(func(o *Options, b bool) { o.RequireSigs = b }),
	"keep-outputs":               onBool(func(o *Options, b bool) { o.KeepOutputs = b }),
	"keep-derivations":           onBool(func(o *Options, b bool) { o.DropDerivations = !b }),
	"auto-optimise-store":        onBool(func(o *Options, b bool) { o.AutoOptimise = b }),
	"fsync-store-paths":          onBool(func(o *Options, b bool) { o.FsyncStorePaths = b }),
	"sync-before-registering":    onBool(func(o *Options, b bool) { o.SyncBeforeRegistering = b }),
	"trusted-public-keys":        onKeys(func(o *Options, k trust.Keys) { o.TrustedKeys = k }),
	"extra-trusted-public-keys":  onKeys(func(o *Options, k trust.Keys) { o.TrustedKeys = o.TrustedKeys.With(k) }),
	"min-free":                   onBytes(func(o *Options, n uint64) { o.AutoGC.MinFree = n }),
	"max-free":                   onBytes(func(o *Options, n uint64) { o.AutoGC.MaxFree = &n }),
	"min-free-check-interval":    onAge(func(o *Options, d time.Duration) { o.AutoGC.CheckInterval = &d }),
	"substitute":                 onBool(func(o *Options, b bool) { o.NoSubstitute = !b }),
	"fallback":                   onBool(func(o *Options, b bool) { o.Fallback = b }),
	"max-substitution-jobs":      onJobs,
	"narinfo-cache-positive-ttl": onAge(func(o *Options, d time.Duration) { o.AnswerAge.Positive = &d }),
	"narinfo-cache-negative-ttl": onAge(func(o *Options, d time.Duration) { o.AnswerAge.Negative = &d }),
	"substituters":               onURIs(func(_ []string, uris []string) []string { return uris }),
	"binary-caches":              onURIs(func(_ []string, uris []string) []string { return uris }),
	"extra-substituters":         onURIs(func(old []string, uris []string) []string { return slices.Concat(old, uris) }),
	"extra-binary-caches":        onURIs(func(old []string, uris []string) []string { return slices.Concat(old, uris) }),
}

// onURIs reads a list of substituters.
func onURIs(change func(old, uris []string) []string) func(*Options, string) error {
	return func(o *Options, value string) error {
		o.Substituters = change(o.Substituters, strings.Fields(value))
		return nil
	}
}

// maxJobs bounds what a client may ask for.
const maxJobs = 1000

func onJobs(o *Options, value string) error {
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil {
		return fmt.Errorf("has invalid value '%.80s', expected a number", value)
	}
	// Even 0 lets one be under way, as in Nix.
	o.SubstitutionJobs = int(min(max(n, 1), maxJobs)) //nolint:gosec // at most maxJobs
	return nil
}

// onBytes reads a size.
func onBytes(set func(*Options, uint64)) func(*Options, string) error {
	return func(o *Options, value string) error {
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return fmt.Errorf("has invalid value '%.80s', expected a number of bytes", value)
		}
		set(o, n)
		return nil
	}
}

// maxAge is about as long as a time.Duration can be.
const maxAge = 1 << 33

// onAge reads a number of seconds.
func onAge(set func(*Options, time.Duration)) func(*Options, string) error {
	return func(o *Options, value string) error {
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return fmt.Errorf("has invalid value '%.80s', expected a number of seconds", value)
		}
		set(o, time.Duration(min(n, maxAge))*time.Second) //nolint:gosec // at most maxAge
		return nil
	}
}

func onBool(set func(*Options, bool)) func(*Options, string) error {
	return func(o *Options, value string) error {
		switch value {
		case "true", "yes", "1":
			set(o, true)
		case "false", "no", "0":
			set(o, false)
		default:
			return fmt.Errorf("has invalid value '%.80s', expected 'true' or 'false'", value)
		}
		return nil
	}
}

func onKeys(set func(*Options, trust.Keys)) func(*Options, string) error {
	return func(o *Options, value string) error {
		keys, err := trust.ParseKeys(strings.Fields(value))
		if err != nil {
			return err
		}
		set(o, keys)
		return nil
	}
}

// override applies settings; the extra- ones after the others. What makes no sense
// stays as it is, and is told by the error.
func (o Options) override(settings map[string]string) (Options, error) {
	var errs []error
	for _, extra := range []bool{false, true} {
		for _, name := range slices.Sorted(maps.Keys(settings)) {
			set, known := overrides[name]
			if !known || strings.HasPrefix(name, "extra-") != extra {
				continue
			}
			changed := o
			if err := set(&changed, settings[name]); err != nil {
				errs = append(errs, fmt.Errorf("setting '%s': %w", name, err))
				continue
			}
			o = changed
		}
	}
	build, err := o.Build.Override(settings)
	o.Build = build
	return o, errors.Join(append(errs, err)...)
}
