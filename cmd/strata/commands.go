package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/strata-nix/strata/internal/suggest"
)

// Groups of commands in the help.
const (
	groupServe = "serve"
	groupRead  = "read"
	groupWrite = "write"
	groupClean = "clean"
)

// command is a row of the table.
type command struct {
	group, name string
	make        func(*globals) *cobra.Command
}

// commands are all there are, but those for the shell and for packagers.
var commands = []command{
	{groupServe, "up", newUpCommand},
	{groupServe, "down", newDownCommand},
	{groupServe, "run", newRunCommand},
	{groupServe, "status", newStatusCommand},
	{groupServe, "refresh", newRefreshCommand},
	{groupServe, "pivot", newPivotCommand},
	{groupServe, "daemon", newDaemonCommand},
	{groupServe, "serve", newServeCommand},
	{groupServe, "lazy", newLazyCommand},
	{groupServe, "ping", newPingCommand},

	{groupRead, "cat", newCatCommand},
	{groupRead, "ls", newLsCommand},
	{groupRead, "info", newInfoCommand},
	{groupRead, "closure", newClosureCommand},
	{groupRead, "tree", newTreeCommand},
	{groupRead, "why", newWhyCommand},
	{groupRead, "diff", newDiffCommand},
	{groupRead, "log", newLogCommand},
	{groupRead, "verify-sigs", newVerifySigsCommand},
	{groupRead, "dump", newDumpCommand},
	{groupRead, "export", newExportCommand},
	{groupRead, "dump-db", newDumpDBCommand},

	{groupWrite, "add", newAddCommand},
	{groupWrite, "build", newBuildCommand},
	{groupWrite, "copy", newCopyCommand},
	{groupWrite, "push", newPushCommand},
	{groupWrite, "commit", newCommitCommand},
	{groupWrite, "merge", newMergeCommand},
	{groupWrite, "sign", newSignCommand},
	{groupWrite, "key", newKeyCommand},
	{groupWrite, "restore", newRestoreCommand},
	{groupWrite, "import", newImportCommand},
	{groupWrite, "load-db", newLoadDBCommand},

	{groupClean, "check", newCheckCommand},
	{groupClean, "add-root", newAddRootCommand},
	{groupClean, "delete", newDeleteCommand},
	{groupClean, "gc", newGCCommand},
	{groupClean, "why-alive", newWhyAliveCommand},
	{groupClean, "optimise", newOptimiseCommand},
	{groupClean, "lease", newLeaseCommand},

	{"", "version", newVersionCommand},
	{"", manCommand, newManCommand},
}

// named gives the command that args name, alone, as to make them all takes longer than
// some of them do; or all, if it is none of them, is to do with all, or is not to be found.
func named(flags *pflag.FlagSet, args []string) []command {
	name := firstNoFlag(flags, args)
	if i := slices.IndexFunc(commands, func(c command) bool { return c.name == name }); i >= 0 && name != manCommand {
		return commands[i : i+1]
	}
	return commands
}

// firstNoFlag gives the first of args that is neither one of the long flags nor the value
// of one, "" if something else comes before it.
func firstNoFlag(flags *pflag.FlagSet, args []string) string {
	for i := 0; i < len(args); i++ {
		if !strings.HasPrefix(args[i], "-") {
			return args[i]
		}
		name, _, valued := strings.Cut(strings.TrimPrefix(args[i], "--"), "=")
		f := flags.Lookup(name)
		if f == nil || !strings.HasPrefix(args[i], "--") {
			return ""
		}
		if !valued && f.NoOptDefVal == "" {
			i++ // is its value
		}
	}
	return ""
}

// manCommand describes all the others.
const manCommand = "man"

// newRootCommand makes the commands that args may mean.
func newRootCommand(g *globals, args []string) *cobra.Command {
	root := &cobra.Command{
		Use:           "strata",
		Short:         "Layered Nix stores",
		Long:          "strata serves, reads and writes Nix stores, among them stores that are made of others.",
		Version:       release,
		SilenceErrors: true, // see report
		SilenceUsage:  true,
		Args:          noSubcommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			ctx, err := g.start(cmd.Context())
			cmd.SetContext(ctx)
			return err
		},
	}
	root.SetIn(g.stdin)
	root.SetOut(g.out)
	root.SetErr(g.stderr)
	root.SetVersionTemplate("strata {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return &usageError{meantFlag(cmd, err)} })
	root.SetHelpTemplate(root.HelpTemplate() + "\n" + exitStatuses + "\n")
	root.CompletionOptions.HiddenDefaultCmd = false
	g.addFlags(root.PersistentFlags())
	root.AddGroup(
		&cobra.Group{ID: groupServe, Title: "Serving:"},
		&cobra.Group{ID: groupRead, Title: "Reading:"},
		&cobra.Group{ID: groupWrite, Title: "Writing:"},
		&cobra.Group{ID: groupClean, Title: "Keeping and deleting:"},
	)
	for _, c := range named(root.PersistentFlags(), args) {
		cmd := c.make(g)
		cmd.GroupID = c.group
		root.AddCommand(cmd)
	}
	return root
}

// strictHelp adds cobra's own commands, which answer with help about something else, and success,
// what names no command. These refuse it.
func strictHelp(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			c.Run, c.RunE = nil, func(_ *cobra.Command, args []string) error {
				about, rest, err := root.Find(args)
				if err != nil {
					return &usageError{err}
				}
				if err := noSubcommand(about, rest); err != nil {
					return err
				}
				about.InitDefaultHelpFlag()
				about.InitDefaultVersionFlag()
				return about.Help()
			}
		case "completion":
			c.Args = noSubcommand
			c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
	}
}

// meantFlag says which flag may have been meant by one that there is not.
func meantFlag(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || unknown.GetSpecifiedShortnames() != "" {
		return err
	}
	var known []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			known = append(known, f.Name)
		}
	})
	if near := suggest.Near(unknown.GetSpecifiedName(), known); near != "" {
		return fmt.Errorf("%w; did you mean '--%s'?", err, near)
	}
	return err
}

// noSubcommand refuses what is no command, with what it could have been.
func noSubcommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	msg := fmt.Sprintf("'%s' is not a command", args[0])
	var known []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			known = append(known, c.Name())
		}
	}
	if near := suggest.Near(args[0], known); near != "" {
		msg += fmt.Sprintf("; did you mean '%s'?", near)
	}
	return &usageError{fmt.Errorf("%s", msg)}
}

// The numbers of arguments that commands take.
var (
	noArgs     = usageArgs(cobra.NoArgs)
	someArgs   = usageArgs(cobra.MinimumNArgs(1))
	anyArgs    = usageArgs(cobra.ArbitraryArgs)
	exactlyOne = usageArgs(cobra.ExactArgs(1))
	exactlyTwo = usageArgs(cobra.ExactArgs(2))
	atLeastTwo = usageArgs(cobra.MinimumNArgs(2))
)

func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return &usageError{fmt.Errorf("%s: %w", cmd.CommandPath(), err)}
		}
		return nil
	}
}

// runner adapts the function that does a command's work.
func runner(work func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error { return work(cmd.Context(), args) }
}
