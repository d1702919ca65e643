package main

import "testing"

func TestNamesOfPathsAreSplitAsByNix(t *testing.T) {
	for in, want := range map[string][2]string{
		"hello-2.12":                  {"hello", "2.12"},
		"hello-2.12-man":              {"hello", "2.12"},
		"apache-httpd-2.0.48":         {"apache-httpd", "2.0.48"},
		"gcc-13.2.0-lib":              {"gcc", "13.2.0"},
		"glibc-2.38-44-bin":           {"glibc", "2.38-44"},
		"source":                      {"source", ""},
		"etc-hosts":                   {"etc", ""},
		"x-":                          {"x-", ""},
		"unit-nix-daemon.service":     {"unit-nix-daemon.service", ""},
		"foo-unstable-2024":           {"foo-unstable", "2024"},
		"a-1":                         {"a", "1"},
		"-1":                          {"", "1"},
		"linux-headers-6.6-lib64":     {"linux-headers", "6.6"},
		"perl5.38.2-URI-5.21-devdoc":  {"perl5.38.2-URI", "5.21"},
		"firefox-unwrapped-128.0-dev": {"firefox-unwrapped", "128.0"},
	} {
		if name, version := splitName(in); name != want[0] || version != want[1] {
			t.Errorf("%s: %q %q, want %q", in, name, version, want)
		}
	}
}
