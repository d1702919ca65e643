package worker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/wire"
)

// Options are the settings that a client sends. Numbers and texts are those of
// nix.conf.
type Options struct {
	KeepFailed    bool
	KeepGoing     bool
	Fallback      bool
	Verbosity     activity.Level
	MaxJobs       uint64
	MaxSilentTime uint64 // seconds; 0: for ever
	VerboseBuild  bool
	Cores         uint64 // 0: all
	Substitute    bool
	// Overrides are other settings by their names.
	Overrides map[string]string
}

// settings are all that concern a store, by their names in nix.conf.
func (o *Options) settings() map[string]string {
	m := map[string]string{
		"keep-failed":     strconv.FormatBool(o.KeepFailed),
		"keep-going":      strconv.FormatBool(o.KeepGoing),
		"fallback":        strconv.FormatBool(o.Fallback),
		"max-jobs":        strconv.FormatUint(o.MaxJobs, 10),
		"max-silent-time": strconv.FormatUint(o.MaxSilentTime, 10),
		"verbose-build":   strconv.FormatBool(o.VerboseBuild),
		"cores":           strconv.FormatUint(o.Cores, 10),
		"substitute":      strconv.FormatBool(o.Substitute),
	}
	maps.Copy(m, o.Overrides)
	return m
}

func (d *decoder) options() *Options {
	o := &Options{
		KeepFailed:    d.Bool(),
		KeepGoing:     d.Bool(),
		Fallback:      d.Bool(),
		Verbosity:     activity.Level(d.Uint64()),
		MaxJobs:       d.Uint64(),
		MaxSilentTime: d.Uint64(),
	}
	d.Uint64() // whether to use the build hook; obsolete
	o.VerboseBuild = activity.Level(d.Uint64()) == activity.Error
	d.Uint64() // type of the log; obsolete
	d.Uint64() // whether to print the build trace; obsolete
	o.Cores = d.Uint64()
	o.Substitute = d.Bool()
	n := d.Count()
	if n > maxSettings {
		d.Fail(fmt.Errorf("%w: %d settings where at most %d make sense", wire.ErrFormat, n, maxSettings))
	}
	o.Overrides = make(map[string]string)
	for range n {
		name, value := d.TextMax(maxPath), d.TextMax(1<<20)
		if d.Err() != nil {
			break
		}
		o.Overrides[name] = value
	}
	return o
}

// options is the inverse of decoder.options.
func (e *encoder) options(o *Options) {
	e.Bool(o.KeepFailed)
	e.Bool(o.KeepGoing)
	e.Bool(o.Fallback)
	e.Uint64(uint64(o.Verbosity))
	e.Uint64(o.MaxJobs)
	e.Uint64(o.MaxSilentTime)
	e.Bool(true)
	if o.VerboseBuild {
		e.Uint64(uint64(activity.Error))
	} else {
		e.Uint64(uint64(activity.Vomit))
	}
	e.Uint64(0)
	e.Uint64(0)
	e.Uint64(o.Cores)
	e.Bool(o.Substitute)
	e.Uint64(uint64(len(o.Overrides)))
	for _, name := range slices.Sorted(maps.Keys(o.Overrides)) {
		e.Text(name)
		e.Text(o.Overrides[name])
	}
}

func serveSetOptions(ctx context.Context, s *session) error {
	o := s.in.options()
	if err := s.start(); err != nil {
		return err
	}
	s.tunnel.level.Store(uint64(o.Verbosity))
	s.permit(ctx, o)
	// Not store.As: the view of something inside would be without what wraps it.
	if v, ok := s.Store.(store.Overridable); ok {
		view, err := v.Override(o.settings())
		if err != nil {
			// As with a stock daemon, a setting that makes no sense stops nobody.
			activity.Warnf(ctx, "%v", err)
		}
		if view != nil {
			s.view = view
		}
	}
	s.stop()
	return nil
}

// harmless are settings that any client may choose for itself.
var harmless = []string{
	"timeout", "build-timeout", "max-silent-time", "build-max-silent-time", "build-poll-interval", "connect-timeout",
}

// permit drops the overrides that this client may not make, and says so.
func (s *session) permit(ctx context.Context, o *Options) {
	for _, name := range slices.Sorted(maps.Keys(o.Overrides)) {
		value := o.Overrides[name]
		switch {
		case name == "ssh-auth-sock", name == "experimental-features":
			delete(o.Overrides, name) // meant for the client itself
		case name == "plugin-files":
			delete(o.Overrides, name)
			activity.Warnf(ctx, "Ignoring the client-specified plugin-files.\n"+
				"The client specifying plugins to the daemon never made sense, and was removed in Nix >=2.14.")
		case s.Trusted, slices.Contains(harmless, name), name == "builders" && value == "":
		case name == "substituters", name == "binary-caches":
			delete(o.Overrides, name)
			o.Overrides["substituters"] = s.permitSubstituters(ctx, value)
		default:
			delete(o.Overrides, name)
			activity.Warnf(ctx, "ignoring the client-specified setting '%s', because it is a restricted setting and you are not a trusted user", name)
		}
	}
}

// permitSubstituters keeps those that an untrusted client may ask for. A slash
// at the end makes no difference.
func (s *session) permitSubstituters(ctx context.Context, asked string) string {
	var kept []string
	for _, uri := range strings.Fields(asked) {
		same := func(t string) bool { return strings.TrimSuffix(t, "/") == strings.TrimSuffix(uri, "/") }
		if slices.ContainsFunc(s.TrustedSubstituters, same) {
			kept = append(kept, uri)
			continue
		}
		activity.Warnf(ctx, "ignoring untrusted substituter '%s', you are not a trusted user.\n"+
			"Run `man nix.conf` for more information on the `substituters` configuration option.", uri)
	}
	return strings.Join(kept, " ")
}
