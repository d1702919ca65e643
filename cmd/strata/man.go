package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newManCommand(*globals) *cobra.Command {
	return &cobra.Command{
		Use:    "man DIRECTORY",
		Short:  "Write manual pages",
		Long:   "Write a manual page for each command to a directory, for packages to install.",
		Hidden: true,
		Args:   exactlyOne,
		RunE:   func(cmd *cobra.Command, args []string) error { return writeManPages(cmd.Root(), args[0]) },
	}
}

func writeManPages(root *cobra.Command, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, c := range documented(root) {
		name := filepath.Join(dir, manName(c)+".1")
		if err := os.WriteFile(name, []byte(manPage(c)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// documented gives a command and those below it that people may know of.
func documented(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		switch {
		case !sub.IsAvailableCommand() || sub.Name() == "help":
		case sub.Name() == "completion": // one page is enough for all shells
			all = append(all, sub)
		default:
			all = append(all, documented(sub)...)
		}
	}
	return all
}

func manName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// manPage writes a command's help in the language of man(7). There is no date in
// it, so that the same source gives the same page.
func manPage(c *cobra.Command) string {
	var b strings.Builder
	section := func(name, text string) {
		if text != "" {
			fmt.Fprintf(&b, ".SH %s\n%s\n", name, text)
		}
	}
	fmt.Fprintf(&b, ".TH %s 1 \"\" \"strata %s\" \"strata\"\n", strings.ToUpper(roff(manName(c))), release)
	section("NAME", roff(manName(c))+` \- `+roff(c.Short))
	section("SYNOPSIS", `\fB`+roff(c.UseLine())+`\fR`)
	section("DESCRIPTION", paragraphs(c.Long))
	section("COMMANDS", manCommands(c))
	section("OPTIONS", manFlags(c.NonInheritedFlags()))
	section("OPTIONS OF ALL COMMANDS", manFlags(c.InheritedFlags()))
	if c.Example != "" {
		section("EXAMPLES", ".nf\n"+roff(c.Example)+"\n.fi")
	}
	section("EXIT STATUS", ".nf\n"+roff(strings.TrimPrefix(exitStatuses, "Exit status:\n"))+"\n.fi")
	return b.String()
}

func manCommands(c *cobra.Command) string {
	var b strings.Builder
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			fmt.Fprintf(&b, ".TP\n\\fB%s\\fR(1)\n%s\n", roff(manName(sub)), roff(sub.Short))
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func manFlags(flags *pflag.FlagSet) string {
	var b strings.Builder
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		fmt.Fprintf(&b, ".TP\n")
		if f.Shorthand != "" {
			fmt.Fprintf(&b, `\fB\-%s\fR, `, f.Shorthand)
		}
		fmt.Fprintf(&b, `\fB\-\-%s\fR`, roff(f.Name))
		if value != "" {
			fmt.Fprintf(&b, ` \fI%s\fR`, roff(value))
		}
		fmt.Fprintf(&b, "\n%s\n", roff(usage))
	})
	return strings.TrimSuffix(b.String(), "\n")
}

// paragraphs sets text that is separated by empty lines.
func paragraphs(text string) string {
	return strings.ReplaceAll(roff(text), "\n\n", "\n.PP\n")
}

// roff keeps text from being taken for requests and escapes.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, `-`, `\-`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
