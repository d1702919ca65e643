package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// compatible is the release of Nix that strata stands in for: clients and
// scripts compare with it.
const compatible = "2.34.8"

// release is strata's own version.
const release = "0.1.0"

// revision is set by the linker: -ldflags '-X main.revision=…'.
var revision string

// version is the version string of the handshake. It has no blanks, as scripts
// cut `nix-daemon --version` at them; and in Nix's order of versions it comes
// after the release that it begins with, and before the next.
const version = compatible + "+strata-" + release

// buildRevision is the commit that the binary was made from, "" if nobody knows.
func buildRevision() string {
	if revision != "" {
		return revision
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	var rev, dirty string
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			rev = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				dirty = "-dirty"
			}
		}
	}
	return rev + dirty
}

type versionOptions struct{ json bool }

type versionJSON struct {
	Strata   string `json:"strata"`
	Nix      string `json:"nix"`
	Protocol string `json:"handshake"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go"`
}

func newVersionCommand(g *globals) *cobra.Command {
	var o versionOptions
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Long:  "Print strata's version, the release of Nix that it is compatible with, and what it was built from.",
		Args:  noArgs,
		RunE:  func(*cobra.Command, []string) error { return runVersion(g, o) },
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

func runVersion(g *globals, o versionOptions) error {
	v := versionJSON{Strata: release, Nix: compatible, Protocol: version, Revision: buildRevision(), Go: runtime.Version()}
	if o.json {
		return g.out.printJSON(v)
	}
	line := fmt.Sprintf("strata %s (compatible with Nix %s)", v.Strata, v.Nix)
	if v.Revision != "" {
		line += ", revision " + v.Revision
	}
	return g.out.println(line)
}
