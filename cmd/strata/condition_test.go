package main

import (
	"fmt"
	"os"

	"github.com/strata-nix/strata/internal/userns"
)

// condition knows the conditions of scripts besides testscript's own.
func condition(name string) (bool, error) {
	if name != "userns" {
		return false, fmt.Errorf("unknown condition %q", name)
	}
	err := userns.Available()
	if err != nil && os.Getenv("STRATA_TEST_NO_SKIP") != "" {
		return false, err
	}
	return err == nil, nil
}
