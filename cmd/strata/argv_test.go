package main

import (
	"errors"
	"strings"
	"testing"
)

func TestJoinOptions(t *testing.T) {
	for in, want := range map[string]string{
		"":                                     "",
		"info x":                               "info x",
		"--option a b info":                    "--option a=b info",
		"info --option a b --option c d x":     "info --option a=b --option c=d x",
		"info --option a=b x":                  "info --option a=b x",
		"info --option trusted-users root%x y": "info --option trusted-users=root%x y",
		"info -- --option a":                   "info -- --option a",
		"--option a -- b":                      "--option a=-- b",
	} {
		got, err := joinOptions(strings.Fields(in))
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
	// A value may be empty, or have blanks.
	if got, err := joinOptions([]string{"--option", "a", ""}); err != nil || got[1] != "a=" {
		t.Errorf("%q, %v", got, err)
	}
	for _, in := range []string{"--option", "info --option a"} {
		var usage *usageError
		if got, err := joinOptions(strings.Fields(in)); !errors.As(err, &usage) {
			t.Errorf("%q gave %q, %v", in, got, err)
		}
	}
}

func TestAsDaemon(t *testing.T) {
	for name, want := range map[string]string{
		"strata": "--stdio", "/usr/bin/strata": "--stdio", "nix-daemon": "daemon --stdio", "/usr/bin/nix-daemon": "daemon --stdio",
		"": "--stdio", "my-nix-daemon": "--stdio",
	} {
		if got := strings.Join(asDaemon(name, []string{"--stdio"}), " "); got != want {
			t.Errorf("called %q: %q", name, got)
		}
	}
	for in, want := range map[string]string{"--serve --write": "daemon --serve --write", "--gc": "--gc"} {
		if got := strings.Join(asDaemon("/bin/nix-store", strings.Fields(in)), " "); got != want {
			t.Errorf("called nix-store %s: %q", in, got)
		}
	}
}
