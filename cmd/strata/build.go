package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

type buildOptions struct {
	mode    store.BuildMode
	outLink string // "": none
	json    bool
	dryRun  bool
}

func newBuildCommand(g *globals) *cobra.Command {
	o := buildOptions{outLink: "result"}
	var check, repair, noLink, keepGoing, keepFailed, fallback bool
	var maxJobs, cores string
	cmd := &cobra.Command{
		Use:   "build PATH|DRV^OUTPUTS...",
		Short: "Build derivations, or fetch what they build",
		Long: `Make store paths valid: by fetching them from a substituter, or, for outputs of a
derivation, by building it with all that it needs before. DRV^out,dev are some outputs, DRV^* and
DRV alone all of them, and DRV^out^out an output of a derivation that is itself an output.
The paths are printed; symlinks to them keep them from being deleted.`,
		Example: "  strata build /nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-hello.drv^out",
		Args:    someArgs,
		RunE: runner(func(ctx context.Context, args []string) error {
			if noLink {
				o.outLink = ""
			}
			switch {
			case check:
				o.mode = store.BuildCheck
			case repair:
				o.mode = store.BuildRepair
			}
			g.override("max-jobs", maxJobs)
			g.override("cores", cores)
			for name, on := range map[string]bool{"keep-going": keepGoing, "keep-failed": keepFailed, "fallback": fallback} {
				if on {
					g.override(name, "true")
				}
			}
			return runBuild(ctx, g, o, args)
		}),
	}
	f := cmd.Flags()
	f.StringVarP(&o.outLink, "out-link", "o", o.outLink, "make symlinks that begin with `NAME`")
	f.BoolVar(&noLink, "no-link", false, "make no symlinks")
	f.BoolVar(&o.json, "json", false, "print JSON")
	f.BoolVar(&o.dryRun, "dry-run", false, "print what would be built and fetched, and do nothing")
	f.BoolVar(&check, "check", false, "build what is there once more, and compare")
	f.BoolVar(&check, "rebuild", false, "the same as --check")
	f.BoolVar(&repair, "repair", false, "make anew what is damaged")
	f.BoolVarP(&keepGoing, "keep-going", "k", false, "build what can be built after a failure")
	f.BoolVarP(&keepFailed, "keep-failed", "K", false, "keep the directories of builds that fail")
	f.BoolVar(&fallback, "fallback", false, "build what cannot be fetched although it should be there to be had")
	f.StringVarP(&maxJobs, "max-jobs", "j", "", "build `N` derivations at once, or 'auto': as many as there are processors")
	f.StringVar(&cores, "cores", "", "let each of them use `N` processors; 0: all")
	cmd.MarkFlagsMutuallyExclusive("check", "rebuild", "repair", "dry-run")
	cmd.MarkFlagsMutuallyExclusive("out-link", "no-link")
	return cmd
}

// override is --option, for a flag of its own.
func (g *globals) override(name, value string) {
	if value != "" {
		g.options = append(g.options, name+"="+value)
	}
}

func runBuild(ctx context.Context, g *globals, o buildOptions, args []string) error {
	c, err := g.config()
	if err != nil {
		return err
	}
	c.tellDaemon, c.forDaemon.Verbosity = true, levelOf(g.verbose, g.quiet)
	dir, err := g.storeDir(g.storeURI)
	if err != nil {
		return err
	}
	targets, err := parseTargets(dir, args)
	if err != nil {
		return err
	}
	return g.with(ctx, func(st store.Store) (err error) {
		if o.dryRun {
			return printMissing(ctx, g, st, targets, o.json)
		}
		b, err := store.Need[store.Builder](st, "buildPaths")
		if err != nil {
			return err
		}
		if r, ok := store.As[store.TempRooter](st); ok {
			roots := r.NewTempRoots()
			defer func() { err = errors.Join(err, roots.Close()) }()
			ctx = store.WithTempRoots(ctx, roots)
		}
		fetched := &fetchedInputs{of: g.progress}
		results, err := b.BuildPaths(activity.With(ctx, fetched), targets, o.mode)
		if err != nil {
			return err
		}
		if o.outLink != "" {
			if err := linkResults(ctx, st, o.outLink, results); err != nil {
				return err
			}
		}
		if err := printResults(g.out, dir, results, o.json, fetched); err != nil {
			return err
		}
		return failureOf(dir, targets, results)
	})
}

// parseTargets reads what to build. A derivation alone stands for all its outputs.
func parseTargets(dir storepath.Dir, args []string) ([]derivation.DerivedPath, error) {
	targets := make([]derivation.DerivedPath, len(args))
	for i, arg := range args {
		base, outputs, derived := strings.Cut(arg, "^")
		paths, err := parseObjects(dir, []string{base})
		if err != nil {
			return nil, err
		}
		text := dir.Print(paths[0])
		switch {
		case derived:
			text += "^" + outputs
		case paths[0].IsDerivation():
			text += "^" + derivation.AllOutputs
		}
		if targets[i], err = derivation.ParseDerivedPathArg(dir, text); err != nil {
			return nil, &usageError{err}
		}
	}
	return targets, nil
}

// buildFailure is what became of builds that failed.
type buildFailure struct {
	message string
	status  uint64
}

func (e *buildFailure) Error() string      { return e.message }
func (e *buildFailure) ExitStatus() uint64 { return e.status }

// failureOf is the error of results that are failures, nil if there are none.
func failureOf(dir storepath.Dir, targets []derivation.DerivedPath, results []*store.BuildResult) error {
	e := &buildFailure{}
	var messages []string
	for i, r := range results {
		switch {
		case r == nil:
			messages = append(messages, fmt.Sprintf("'%s' was given up, because something else failed", targets[i].Arg(dir)))
		case !r.Status.OK():
			messages = append(messages, r.Message)
			status := r.ExitStatus
			if status == 0 {
				status = store.ExitStatus(r.Status)
			}
			if e.status <= 1 {
				e.status = status
			} else if status > 1 {
				e.status |= status
			}
		}
	}
	if len(messages) == 0 {
		return nil
	}
	e.message = strings.ReplaceAll(strings.Join(messages, "\n"), "\n", "\n       ")
	return e
}

// linkResults makes a root of each output: NAME, NAME-dev, NAME-1, NAME-1-dev, as
// Nix names them.
func linkResults(ctx context.Context, st store.Store, name string, results []*store.BuildResult) error {
	keeper, err := store.Need[store.RootKeeper](st, "addIndirectRoot")
	if err != nil {
		return err
	}
	base, err := filepath.Abs(name)
	if err != nil {
		return err
	}
	for i, r := range results {
		if r == nil || !r.Status.OK() {
			continue
		}
		stem := base
		if i > 0 {
			stem = fmt.Sprintf("%s-%d", base, i)
		}
		links := map[string]storepath.Path{stem: r.Path.Path}
		if !r.Path.IsOpaque() {
			links = map[string]storepath.Path{}
			for output, real := range r.Outputs {
				link := stem
				if output != "out" {
					link += "-" + output
				}
				links[link] = real.OutPath
			}
		}
		for _, link := range slices.Sorted(maps.Keys(links)) {
			if err := makeLink(st.Dir().Print(links[link]), link); err != nil {
				return err
			}
			if err := keeper.AddIndirectRoot(ctx, link); err != nil {
				return err
			}
		}
	}
	return nil
}

// makeLink makes or changes a symlink. Anything else at its place is an error.
func makeLink(target, link string) error {
	if st, err := os.Lstat(link); err == nil && st.Mode()&os.ModeSymlink == 0 {
		return fmt.Errorf("cannot create symlink '%s'; already exists", link)
	}
	tmp := fmt.Sprintf("%s.tmp-%d", link, os.Getpid())
	if err := os.Symlink(target, tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, link); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return nil
}

// resultJSON is what --json prints of each target.
type resultJSON struct {
	Path    string            `json:"path,omitempty"`    // of what was asked for as it is
	DrvPath string            `json:"drvPath,omitempty"` // else, as it was asked for
	Outputs map[string]string `json:"outputs,omitempty"`
	Status  string            `json:"status"`
	Error   string            `json:"error,omitempty"`
	Start   int64             `json:"startTime,omitempty"`
	Stop    int64             `json:"stopTime,omitempty"`
	Fetched uint64            `json:"fetchedBytes,omitempty"` // of inputs, as the build read them
}

func printResults(out *output, dir storepath.Dir, results []*store.BuildResult, json bool, fetched *fetchedInputs) error {
	list := []resultJSON{}
	for _, r := range results {
		if r == nil {
			continue
		}
		entry := resultJSON{Status: statusName(r.Status), Error: r.Message, Start: r.Start, Stop: r.Stop}
		var lines []string
		if r.Path.IsOpaque() {
			entry.Path = dir.Print(r.Path.Path)
			lines = []string{entry.Path}
		} else {
			entry.DrvPath = r.Path.Drv().Arg(dir)
			entry.Fetched = fetched.by(entry.DrvPath)
			entry.Outputs = make(map[string]string, len(r.Outputs))
			for _, name := range slices.Sorted(maps.Keys(r.Outputs)) {
				entry.Outputs[name] = dir.Print(r.Outputs[name].OutPath)
				lines = append(lines, entry.Outputs[name])
			}
		}
		list = append(list, entry)
		if json || !r.Status.OK() {
			continue
		}
		for _, l := range lines {
			if err := out.println(l); err != nil {
				return err
			}
		}
	}
	if json {
		return out.printJSON(list)
	}
	return nil
}

// statusName is what Nix calls a status.
func statusName(s store.BuildStatus) string {
	names := []string{
		"Built", "Substituted", "AlreadyValid", "PermanentFailure", "InputRejected", "OutputRejected", "TransientFailure",
		"CachedFailure", "TimedOut", "MiscFailure", "DependencyFailed", "LogLimitExceeded", "NotDeterministic",
		"ResolvesToAlreadyValid", "NoSubstituters", "HashMismatch",
	}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprint(s)
}
