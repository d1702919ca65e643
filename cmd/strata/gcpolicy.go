package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"github.com/strata-nix/strata/internal/calendar"
	"github.com/strata-nix/strata/profile"
	"github.com/strata-nix/strata/stack"
	"github.com/strata-nix/strata/store"
)

// gcPolicyOptions are the flags of gc that are about policies of stacks, and about what
// is deleted before garbage is collected.
type gcPolicyOptions struct {
	stackSelection
	policy    bool
	all, due  bool
	older     string
	old       bool
	maxSize   string
	optimise  bool
	leases    string
	skipLease []string

	changed func(flag string) bool
}

func (o *gcPolicyOptions) gcFlags(f *pflag.FlagSet) {
	o.changed = f.Changed
	o.stackSelection.addFlags(f)
	f.BoolVar(&o.policy, "policy", false, "collect by the policy of a stack; a name, -c and --upper imply it")
	f.BoolVar(&o.all, "all", false, "collect the garbage of all stacks that are up, each by its own policy")
	f.BoolVar(&o.due, "due", false, "only of those stacks for which it is due by their schedules")
	f.StringVar(&o.older, "delete-older-than", "", "first delete the generations of profiles that have not been in use for so `LONG` (30d)")
	f.BoolVarP(&o.old, "delete-old", "d", false, "first delete all generations of profiles but the current ones")
	f.StringVar(&o.maxSize, "max-size", "", "of a stack: collect until its upper layer has at most so many `BYTES`, and nothing if it has")
	f.BoolVar(&o.optimise, "optimise", false, "of a stack: afterwards drop what lowers have too, and make equal files one")
	f.StringVar(&o.leases, "leases", "", "keep what the leases in `PLACE` keep, a directory or s3://BUCKET/PREFIX; see strata lease")
	f.StringArrayVar(&o.skipLease, "skip-lease", nil, "pass over the lease of `CONSUMER`, readable or not; may be repeated")
}

// ofStacks tells whether stacks are meant, and not the store of --store.
func (o *gcPolicyOptions) ofStacks() bool {
	return o.policy || o.all || o.due || o.any()
}

// check refuses flags that do not go together.
func (o *gcPolicyOptions) check() error {
	if !o.ofStacks() {
		for _, name := range []string{"max-size", "optimise"} {
			if o.changed(name) {
				return fmt.Errorf("--%s is for stacks: name one, or give -c", name)
			}
		}
		return nil
	}
	for _, name := range []string{"print-roots", "print-live", "leases", "skip-lease"} {
		if f := o.changed; f(name) {
			return fmt.Errorf("--%s is not for the policies of stacks; use it with --store", name)
		}
	}
	if (o.all || o.due) && (len(o.names) > 0 || o.file != "" || o.upper != "") {
		return errors.New("--all and --due mean all stacks, so none is named with them")
	}
	return nil
}

// once says what is different from the policies.
func (o *gcPolicyOptions) once(dryRun bool, maxFreed uint64) (c stack.CollectOptions, err error) {
	c = stack.CollectOptions{Due: o.due, DryRun: dryRun}
	if o.changed("max-freed") {
		c.MaxFreed = &maxFreed
	}
	if o.older != "" {
		d, err := calendar.ParseSpan(o.older)
		if err != nil {
			return c, fmt.Errorf("--delete-older-than: %w", err)
		}
		c.DeleteOlderThan = &d
	}
	if o.changed("delete-old") {
		c.DeleteOld = &o.old
	}
	if o.changed("optimise") {
		c.Optimise = &o.optimise
	}
	if o.maxSize != "" {
		n, err := parseSize(o.maxSize)
		if err != nil {
			return c, fmt.Errorf("--max-size: %w", err)
		}
		c.MaxSize = &n
	}
	return c, nil
}

// collectStacks collects the garbage of stacks by their policies.
func collectStacks(ctx context.Context, g *globals, o gcOptions, once stack.CollectOptions) error {
	runs, err := o.runs()
	if o.file != "" && isNotUp(err) {
		return broughtUp(ctx, g, o.file, func(s *stack.Stack) error {
			done, err := s.Collect(ctx, once)
			if err != nil {
				return err
			}
			return printCollected(g.out, []*stack.CollectResult{done}, o.json)
		})
	}
	if !o.all && !o.due && len(o.names)+len(o.file)+len(o.upper) == 0 && len(runs) != 1 {
		return &usageError{fmt.Errorf("%d stacks are up; name one, or give --all", len(runs))}
	}
	results := make([]*stack.CollectResult, 0, len(runs))
	for _, r := range runs {
		if up, upErr := r.Up(); o.all && upErr == nil && !up {
			continue // what it left is nobody's garbage yet
		}
		done, askErr := r.Collect(ctx, once)
		if askErr != nil {
			err = errors.Join(err, notUp(askErr))
			continue
		}
		results = append(results, done)
	}
	return errors.Join(printCollected(g.out, results, o.json), err)
}

func isNotUp(err error) bool { return errors.Is(err, errAbsent) || errors.Is(err, stack.ErrNotUp) }

// overQuota says that what is alive in a stack is more than it may have.
type overQuota struct{ name string }

func (e *overQuota) Error() string {
	return fmt.Sprintf("stack '%s' has more than its quota, and all of it is alive", e.name)
}

func printCollected(out *output, all []*stack.CollectResult, json bool) error {
	var err error
	for _, r := range all {
		if r.OverQuota {
			err = errors.Join(err, &overQuota{r.Stack})
		}
	}
	if json {
		return errors.Join(out.printJSON(all), err)
	}
	for _, r := range all {
		if r.Skipped {
			when := "it has no schedule"
			if r.Next != nil {
				when = "the next time is " + r.Next.Local().Format(time.DateTime)
			}
			err = errors.Join(err, out.println(fmt.Sprintf("%s: not due; %s", r.Stack, when)))
			continue
		}
		for _, path := range r.Generations {
			err = errors.Join(err, out.println(path))
		}
		deleted := "deleted"
		if r.DryRun {
			deleted = "would be deleted"
		}
		line := fmt.Sprintf("%s: %d generations and %d paths %s, %s freed", r.Stack, len(r.Generations), r.Paths, deleted, size(r.BytesFreed))
		if r.SizeAfter != nil {
			line += fmt.Sprintf("; the upper layer has %s", size(*r.SizeAfter))
		}
		err = errors.Join(err, out.println(line))
	}
	return err
}

// deleteGenerations deletes old generations of the profiles that nix-collect-garbage
// would look at: those of the store, and those of this user if the store is this
// machine's.
func deleteGenerations(ctx context.Context, g *globals, st store.Store, o *gcPolicyOptions, dryRun bool) ([]profile.Generation, error) {
	var old profile.Old
	if !o.old {
		d, err := calendar.ParseSpan(o.older)
		if err != nil {
			return nil, &usageError{fmt.Errorf("--delete-older-than: %w", err)}
		}
		old.Before = time.Now().Add(-d)
	}
	c, err := g.config()
	if err != nil {
		return nil, err
	}
	state := c.stateDir
	if s, ok := store.As[interface{ StateDir() string }](st); ok {
		state = s.StateDir()
	}
	dirs := []string{filepath.Join(state, "profiles")}
	if state == c.stateDir {
		dirs = append(dirs, userProfiles(os.LookupEnv)...)
	}
	return profile.PruneAll(ctx, dirs, old, dryRun, nil)
}

// userProfiles are where the profiles of a user are that are not in the store's state
// directory.
// Source: src/libstore/profiles.cc of Nix 2.34, profilesDir and getDefaultProfile.
func userProfiles(env environment) []string {
	var dirs []string
	state := env.nonEmpty("NIX_STATE_HOME", "")
	if xdg := env.dirIn("XDG_STATE_HOME", ".local/state"); state == "" && xdg != "" {
		state = filepath.Join(xdg, "nix")
	}
	if state != "" {
		dirs = append(dirs, filepath.Join(state, "profiles"))
	}
	for _, link := range []string{filepath.Join(env.nonEmpty("HOME", ""), ".nix-profile"), filepath.Join(state, "profile")} {
		if to, err := os.Readlink(link); err == nil && filepath.IsAbs(to) {
			dirs = append(dirs, filepath.Dir(to))
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// leased is the URI of a store that keeps what is leased.
func (g *globals) leased(uri string, o *gcPolicyOptions) (string, error) {
	if o.leases == "" && len(o.skipLease) == 0 {
		return uri, nil
	}
	c, err := g.config()
	if err != nil {
		return "", err
	}
	ref, err := c.reference(uri)
	if err != nil {
		return "", &usageError{err}
	}
	params := map[string][]string{}
	for name, v := range ref.Params {
		params[name] = v
	}
	if o.leases != "" {
		params["leases"] = []string{o.leases}
	}
	params["skip-lease"] = append(params["skip-lease"], o.skipLease...)
	ref.Params = params
	return ref.String(), nil
}
