package suggest

import (
	"strings"
	"testing"
)

func TestNear(t *testing.T) {
	known := []string{"lower-store", "upper-layer", "root", "read-only", "state"}
	for name, want := range map[string]string{
		"upper-layer":             "upper-layer",
		"upper_layer":             "upper-layer",
		"uperlayer":               "upper-layer",
		"Lower-Store":             "lower-store",
		"roto":                    "root",
		"stat":                    "state",
		"readonly":                "read-only",
		"low":                     "lower-store",
		"upper":                   "upper-layer",
		"colour":                  "",
		"":                        "",
		"x":                       "",
		strings.Repeat("root", 9): "",
	} {
		if got := Near(name, known); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
	if got := Near("ab", []string{"aa", "cb", "aa"}); got != "aa" {
		t.Errorf("of two that are as near: %q", got)
	}
	if got := Near("anything", nil); got != "" {
		t.Errorf("of none: %q", got)
	}
}
