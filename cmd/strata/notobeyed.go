package main

import (
	"fmt"
	"maps"
	"slices"
)

// notObeyed are settings of nix.conf that a daemon obeys elsewhere and strata's
// does not, with what it does instead.
var notObeyed = map[string]string{
	"external-builders":    "builders are run by this daemon, or by another machine",
	"gc-reserved-space":    "nothing is reserved for garbage collections",
	"json-log-path":        "see --log-format",
	"plugin-files":         "there are no plugins",
	"preallocate-contents": "files are not preallocated",
	"use-case-hack":        "it is for other systems",
}

// passedOver says which settings were made that nobody obeys.
func (s *settings) passedOver() []string {
	var said []string
	for _, name := range slices.Sorted(maps.Keys(notObeyed)) {
		if s.IsSet(name) && s.String(name, "") != "" {
			said = append(said, fmt.Sprintf("setting '%s' is not obeyed: %s", name, notObeyed[name]))
		}
	}
	return said
}
