package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/internal/suggest"
)

// Groups of commands in the help.
const (
	groupServe = "serve"
	groupRead  = "read"
	groupWrite = "write"
	groupClean = "clean"
)

// commands are all there are, but those for the shell and for packagers.
var commands = []struct {
	group string
	make  func(*globals) *cobra.Command
}{
	{groupServe, newUpCommand},
	{groupServe, newDownCommand},
	{groupServe, newRunCommand},
	{groupServe, newStatusCommand},
	{groupServe, newRefreshCommand},
	{groupServe, newPivotCommand},
	{groupServe, newDaemonCommand},
	{groupServe, newServeCommand},
	{groupServe, newLazyCommand},
	{groupServe, newPingCommand},

	{groupRead, newCatCommand},
	{groupRead, newLsCommand},
	{groupRead, newInfoCommand},
	{groupRead, newClosureCommand},
	{groupRead, newTreeCommand},
	{groupRead, newWhyCommand},
	{groupRead, newDiffCommand},
	{groupRead, newLogCommand},
	{groupRead, newVerifySigsCommand},
	{groupRead, newDumpCommand},
	{groupRead, newExportCommand},
	{groupRead, newDumpDBCommand},

	{groupWrite, newAddCommand},
	{groupWrite, newBuildCommand},
	{groupWrite, newCopyCommand},
	{groupWrite, newPushCommand},
	{groupWrite, newCommitCommand},
	{groupWrite, newMergeCommand},
	{groupWrite, newSignCommand},
	{groupWrite, newKeyCommand},
	{groupWrite, newRestoreCommand},
	{groupWrite, newImportCommand},
	{groupWrite, newLoadDBCommand},

	{groupClean, newCheckCommand},
	{groupClean, newAddRootCommand},
	{groupClean, newDeleteCommand},
	{groupClean, newGCCommand},
	{groupClean, newWhyAliveCommand},
	{groupClean, newOptimiseCommand},
	{groupClean, newLeaseCommand},

	{"", newVersionCommand},
	{"", newManCommand},
}

func newRootCommand(g *globals) *cobra.Command {
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
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.SetHelpTemplate(root.HelpTemplate() + "\n" + exitStatuses + "\n")
	root.CompletionOptions.HiddenDefaultCmd = false
	g.addFlags(root.PersistentFlags())
	root.AddGroup(
		&cobra.Group{ID: groupServe, Title: "Serving:"},
		&cobra.Group{ID: groupRead, Title: "Reading:"},
		&cobra.Group{ID: groupWrite, Title: "Writing:"},
		&cobra.Group{ID: groupClean, Title: "Keeping and deleting:"},
	)
	for _, c := range commands {
		cmd := c.make(g)
		cmd.GroupID = c.group
		root.AddCommand(cmd)
	}
	return root
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
