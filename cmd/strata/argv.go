package main

import (
	"fmt"
	"slices"
	"strings"
)

// joinOptions rewrites `--option NAME VALUE`, which is how Nix spells it, as
// `--option NAME=VALUE`: flags here have one argument. Names of settings have no
// equals sign, so that the latter form may also be typed.
func joinOptions(args []string) ([]string, error) {
	var out []string
	for i := 0; i < len(args); i++ {
		if args[i] == "--" {
			return append(out, args[i:]...), nil
		}
		out = append(out, args[i])
		if args[i] != "--option" {
			continue
		}
		given := len(args) - i - 1
		if given > 0 && strings.Contains(args[i+1], "=") {
			continue
		}
		if given < 2 {
			return nil, &usageError{fmt.Errorf("flag '--option' requires 2 arguments, but only %d were given", given)}
		}
		out = append(out, args[i+1]+"="+args[i+2])
		i += 2
	}
	return out, nil
}

// asDaemon is the command line when the binary is called as name: called
// nix-daemon it is `strata daemon`, and so is `nix-store --serve`.
func asDaemon(name string, args []string) []string {
	name = name[strings.LastIndexByte(name, '/')+1:]
	if name == "nix-daemon" || name == "nix-store" && slices.Contains(args, "--serve") {
		return slices.Concat([]string{"daemon"}, args)
	}
	return args
}
