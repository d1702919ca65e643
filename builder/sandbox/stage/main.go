// Command stage is the programs that stand around a builder and nothing else; see
// package sandbox. It is not run by people: `make build` puts it into strata, which
// starts it in place of itself, because a small program starts sooner.
package main

import (
	"fmt"
	"os"

	_ "github.com/strata-nix/strata/builder/sandbox" // is the stages, when started as one
)

func main() {
	fmt.Fprintln(os.Stderr, "This is a part of strata, which starts it for builds.")
	os.Exit(1)
}
