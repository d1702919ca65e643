package execute

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
)

func TestParsePreBuildHook(t *testing.T) {
	for _, c := range []struct {
		text string
		want []SandboxPath
		fail bool
	}{
		{text: ""},
		{text: "extra-sandbox-paths\n/a\n/b=/c\n\n", want: []SandboxPath{{Target: "/a", Source: "/a"}, {Target: "/b", Source: "/c"}}},
		{text: "extra-chroot-dirs\n/a\n\nextra-sandbox-paths\n/b\n", want: []SandboxPath{{Target: "/a", Source: "/a"}, {Target: "/b", Source: "/b"}}},
		{text: "extra-sandbox-paths\n/a", want: nil},
		{text: "remove-everything\n", fail: true},
		{text: "extra-sandbox-paths\n\n/a\n", fail: true},
	} {
		got, err := parsePreBuildHook(c.text)
		if (err != nil) != c.fail || !c.fail && !slices.Equal(got, c.want) {
			t.Errorf("%q: %v, %v", c.text, got, err)
		}
	}
}

func TestHookFailures(t *testing.T) {
	script := func(text string) string {
		path := filepath.Join(testenv.Scratch(t), "hook")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil { //nolint:gosec // it is run
			t.Fatal(err)
		}
		return path
	}
	for text, want := range map[string]string{
		"exit 0":        "",
		"exit 3":        "failed with exit code 3",
		"kill -9 $$":    "failed due to signal 9 (Killed)",
		"kill -ABRT $$": "failed due to signal 6 (Aborted)",
	} {
		path := script(text)
		err := runHook(t.Context(), hook(t.Context(), path))
		if want == "" && err != nil || want != "" && (err == nil || err.Error() != "program '"+path+"' "+want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if err := runHook(t.Context(), hook(t.Context(), "/no/such/hook")); err == nil {
		t.Error("a hook that is not there has run")
	}
}

func TestEndings(t *testing.T) {
	for sig, want := range map[int]string{
		1: "failed due to signal 1 (Hangup)", 11: "failed due to signal 11 (Segmentation fault)", 31: "failed due to signal 31 (Bad system call)",
		32: "failed due to signal 32 (Unknown signal 32)", 34: "failed due to signal 34 (Real-time signal 0)", 64: "failed due to signal 64 (Real-time signal 30)",
	} {
		if got := ended(0, syscall.Signal(sig)); got != want {
			t.Errorf("%d: %s", sig, got)
		}
	}
}
