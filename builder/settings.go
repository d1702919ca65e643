package builder

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/builder/sandbox"
	"github.com/strata-nix/strata/nixconf"
	"github.com/strata-nix/strata/trust"
)

// Obey takes over the settings that are set in c; the others stay as they are.
func (o *Options) Obey(c *nixconf.Config) error { return o.obey(reader{c: c}) }

func (o *Options) obey(r reader) error {
	c := r.c
	e := &o.Execute

	r.bool("keep-going", &o.KeepGoing)
	r.bool("fallback", &o.Fallback)
	r.bool("always-allow-substitutes", &o.AlwaysAllowSubstitutes)
	jobs, err := c.Jobs("max-jobs", o.MaxJobs)
	o.MaxJobs = jobs
	r.note(err)
	o.System = c.String("system", o.System)
	o.ExtraPlatforms = c.Strings("extra-platforms", o.ExtraPlatforms)
	if c.IsSet("builders") {
		o.Builders = c.String("builders", "")
	}
	r.bool("builders-use-substitutes", &o.BuildersUseSubstitutes)
	o.BuildHook = c.Strings("build-hook", o.BuildHook)
	r.seconds("build-poll-interval", &o.PollInterval)

	e.Features = c.Strings("experimental-features", e.Features)
	e.SystemFeatures = c.Strings("system-features", e.SystemFeatures)
	r.int("cores", &e.Cores)
	r.path("build-dir", &e.BuildDir)
	r.bool("keep-failed", &e.KeepFailed)
	r.not("keep-build-log", &e.NoBuildLog)
	r.not("compress-build-log", &e.PlainBuildLog)
	if c.IsSet("log-lines") {
		r.int("log-lines", &e.LogLines)
		if e.LogLines == 0 {
			e.LogLines = -1 // none, and not the default
		}
	}
	r.uint("max-build-log-size", &e.MaxBuildLogSize)
	r.seconds("max-silent-time", &e.MaxSilentTime)
	r.seconds("timeout", &e.Timeout)
	e.SSLCertFile = c.String("ssl-cert-file", e.SSLCertFile)
	e.HashedMirrors = c.Strings("hashed-mirrors", e.HashedMirrors)
	e.IgnoredACLs = c.Strings("ignored-acls", e.IgnoredACLs)
	if c.IsSet("impure-env") {
		e.ImpureEnv = c.Map("impure-env")
	}
	if c.IsSet("secret-key-files") {
		e.SecretKeys = r.keys()
	}
	r.hooks(o)
	r.sandbox(e)
	e.Config += r.text()
	return errors.Join(r.errs...)
}

// Override gives the options of a client that has settings of its own, by their
// names in nix.conf. Names that are of no concern here are passed over, and values
// that make no sense are told by the error.
func (o Options) Override(settings map[string]string) (Options, error) {
	c := nixconf.New()
	origin := nixconf.Origin{File: "the client"}
	r := reader{c: c, strict: true}
	// Some settings mean something only with the features of this side.
	r.note(c.Set("experimental-features", strings.Join(o.Execute.Features, " "), origin))
	for _, extra := range []bool{false, true} {
		for _, name := range slices.Sorted(maps.Keys(settings)) {
			if strings.HasPrefix(name, "extra-") == extra && strings.TrimPrefix(name, "extra-") != "experimental-features" {
				r.note(c.Set(name, settings[name], origin))
			}
		}
	}
	err := o.obey(r)
	return o, err
}

// reader reads settings and collects what is wrong with them.
type reader struct {
	c *nixconf.Config
	// strict makes an error of secrets that cannot be read. Those of the
	// configuration are nothing that every command needs.
	strict bool
	errs   []error
}

func (r *reader) note(err error) {
	if err != nil {
		r.errs = append(r.errs, err)
	}
}

func (r *reader) bool(name string, to *bool) {
	b, err := r.c.Bool(name, *to)
	if err == nil {
		*to = b
	}
	r.note(err)
}

// not is a bool that is kept the other way round.
func (r *reader) not(name string, to *bool) {
	b := !*to
	r.bool(name, &b)
	*to = !b
}

func (r *reader) int(name string, to *int) {
	n := uint64(max(*to, 0))
	r.uint(name, &n)
	*to = int(min(n, math.MaxInt32))
}

func (r *reader) uint(name string, to *uint64) {
	n, err := r.c.Uint(name, *to)
	if err == nil {
		*to = n
	}
	r.note(err)
}

func (r *reader) seconds(name string, to *time.Duration) {
	n := uint64(*to / time.Second)
	r.uint(name, &n)
	*to = time.Duration(min(n, math.MaxInt64/uint64(time.Second))) * time.Second //nolint:gosec // just made small enough
}

// path is an absolute path, or nothing to have the default again.
func (r *reader) path(name string, to *string) {
	if r.c.IsSet(name) && r.c.String(name, "") == "" {
		*to = ""
		return
	}
	p, err := r.c.Path(name, *to)
	if err != nil {
		r.note(err)
		return
	}
	*to = p
}

// keys are those that sign what is built.
func (r *reader) keys() []trust.SecretKey {
	var keys []trust.SecretKey
	for _, file := range r.c.Strings("secret-key-files", nil) {
		text, err := os.ReadFile(file)
		if err != nil && !r.strict {
			continue
		}
		var key trust.SecretKey
		if err == nil {
			key, err = trust.ParseSecretKey(strings.TrimSpace(string(text)))
		}
		if err != nil {
			r.note(fmt.Errorf("setting 'secret-key-files': %w", err))
			continue
		}
		keys = append(keys, key)
	}
	return keys
}

func (r *reader) hooks(o *Options) {
	e := &o.Execute
	e.PreBuildHook = r.c.String("pre-build-hook", e.PreBuildHook)
	e.PostBuildHook = r.c.String("post-build-hook", e.PostBuildHook)
	r.bool("run-diff-hook", &o.RunDiffHook)
	o.DiffHook = r.c.String("diff-hook", o.DiffHook)
	e.DiffHook = ""
	if o.RunDiffHook {
		e.DiffHook = o.DiffHook
	}
}

func (r *reader) sandbox(e *execute.Options) {
	switch mode := r.c.String("sandbox", ""); mode {
	case "":
	case "true", "yes", "1":
		e.Sandbox = execute.Sandboxed
	case "relaxed":
		e.Sandbox = execute.Relaxed
	case "false", "no", "0":
		e.Sandbox = execute.Unboxed
	default:
		r.note(fmt.Errorf("option 'sandbox' has invalid value '%.100s'", mode))
	}
	if r.c.IsSet("sandbox-paths") {
		e.SandboxPaths = parseSandboxPaths(r.c.Strings("sandbox-paths", printSandboxPaths(e.SandboxPaths)))
	}
	r.not("sandbox-fallback", &e.NoSandboxFallback)
	r.path("sandbox-build-dir", &e.SandboxBuildDir)
	e.SandboxDevShmSize = r.c.String("sandbox-dev-shm-size", e.SandboxDevShmSize)
	if c := r.c; c.IsSet("allowed-impure-host-deps") {
		e.AllowedImpureHostDeps = strings.Fields(c.String("allowed-impure-host-deps", ""))
	}
	r.not("filter-syscalls", &e.NoFilterSyscalls)
	r.bool("allow-new-privileges", &e.AllowNewPrivileges)
	r.bool("impersonate-linux-26", &e.ImpersonateLinux26)
	r.not("require-drop-supplementary-groups", &e.KeepGroups)
	r.bool("use-cgroups", &e.UseCgroups)
	r.users(&e.Users)
}

func (r *reader) users(u *sandbox.Users) {
	u.Group = r.c.String("build-users-group", u.Group)
	auto := u.Auto != nil
	r.bool("auto-allocate-uids", &auto)
	if !auto {
		u.Auto = nil
		return
	}
	ids := sandbox.IDRange{Start: sandbox.DefaultStartID, Count: sandbox.DefaultIDCount}
	if u.Auto != nil {
		ids = *u.Auto
	}
	for name, to := range map[string]*uint32{"start-id": &ids.Start, "id-count": &ids.Count} {
		n, err := r.c.Uint(name, uint64(*to))
		if err == nil && n > math.MaxUint32 {
			err = fmt.Errorf("setting '%s' has invalid value '%d': there are no such ids", name, n)
		}
		r.note(err)
		*to = uint32(n) //nolint:gosec // refused if it is too big
	}
	u.Auto = &ids
}

// text is what was set, for a hook that runs Nix.
func (r *reader) text() string {
	var b strings.Builder
	for _, s := range nixconf.Settings {
		switch {
		case !r.c.IsSet(s.Name):
		case s.Kind == nixconf.List || s.Kind == nixconf.Map:
			words, extra := r.c.Strings(s.Name, []string{""}), "" // a word is never empty
			if len(words) > 0 && words[0] == "" {
				words, extra = words[1:], "extra-"
			}
			fmt.Fprintf(&b, "%s%s = %s\n", extra, s.Name, strings.Join(words, " "))
		default:
			fmt.Fprintf(&b, "%s = %s\n", s.Name, strings.ReplaceAll(r.c.String(s.Name, ""), "\n", " "))
		}
	}
	return b.String()
}

// parseSandboxPaths reads "target", "target=source" and either with "?" at the
// end. Of a target that comes twice the first counts.
func parseSandboxPaths(words []string) []execute.SandboxPath {
	var out []execute.SandboxPath
	for _, w := range words {
		w, optional := strings.CutSuffix(w, "?")
		target, source, _ := strings.Cut(w, "=")
		if target == "" {
			continue
		}
		target = filepath.Clean(target)
		if !slices.ContainsFunc(out, func(p execute.SandboxPath) bool { return p.Target == target }) {
			out = append(out, execute.SandboxPath{Target: target, Source: source, Optional: optional})
		}
	}
	return out
}

func printSandboxPaths(paths []execute.SandboxPath) []string {
	words := make([]string, len(paths))
	for i, p := range paths {
		words[i] = p.Target
		if p.Source != "" {
			words[i] += "=" + p.Source
		}
		if p.Optional {
			words[i] += "?"
		}
	}
	return words
}
