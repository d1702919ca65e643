package worker

import (
	"fmt"
	"strings"
	"testing"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// TestUntrusted lists what only trusted clients may do.
func TestUntrusted(t *testing.T) {
	w := newWorld(t)
	w.Trusts = func(*store.PathInfo) bool { return false }
	c := client(t, server(t, Session{Store: w}), ClientOptions{MaxConnections: 1})
	if trust, err := c.Trust(t.Context()); err != nil || trust != store.NotTrusted {
		t.Errorf("trust is %d, %v", trust, err)
	}
	ctx := t.Context()
	info := w.foreign(ctx)
	archive := w.nar(ctx, w.hello)
	for name, test := range map[string]struct {
		do   func() error
		want string
	}{
		"repair by building": {func() error {
			_, err := c.BuildPaths(ctx, w.targets(), store.BuildRepair)
			return err
		}, "repairing is not allowed because you are not in 'trusted-users'"},
		"repair by verifying": {func() error {
			_, err := c.Verify(ctx, store.VerifyOptions{Repair: true})
			return err
		}, "you are not privileged to repair paths"},
		"unsigned object": {func() error {
			return c.Add(ctx, info, strings.NewReader(archive), store.AddOptions{NoCheckSigs: true})
		}, "lacks a signature by a trusted key"},
		"unsigned objects": {func() error {
			return c.AddMultiple(ctx, &objects{[]*store.PathInfo{info}, []string{archive}}, store.AddOptions{NoCheckSigs: true})
		}, "lacks a signature by a trusted key"},
		"log":         {func() error { return c.AddBuildLog(ctx, w.drv, strings.NewReader("x")) }, "you are not privileged to add logs"},
		"realisation": {func() error { return c.RegisterRealisations(ctx, []*store.Realisation{{ID: w.id, OutPath: w.out}}) }, "you are not privileged to register"},
		"root": {func() error {
			return c.ask(ctx, opAddPermRoot, func(e *encoder) {
				e.path(w.hello)
				e.Text("/nix/var/nix/gcroots/x")
			}, nil)
		}, "you are not privileged to create perm roots"},
		"input-addressed build": {func() error {
			b := *w.basic
			b.Outputs = map[string]derivation.Output{"out": {Kind: 1, Path: w.out}}
			_, err := c.BuildDerivation(ctx, w.drv, &b, store.BuildNormal)
			return err
		}, "you are not privileged to build input-addressed derivations"},
	} {
		if err := test.do(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What is fixed may be built; its path is computed anew.
	if _, err := c.BuildDerivation(ctx, lie(t), w.basic, store.BuildNormal); err != nil {
		t.Errorf("fixed output: %v", err)
	}
	if last := w.built[len(w.built)-1]; !strings.Contains(last, w.drv.Base()) {
		t.Errorf("built %s", last)
	}
	roots, err := c.FindRoots(ctx, false)
	if err != nil || len(roots) == 0 {
		t.Fatalf("roots: %v, %v", roots, err)
	}
	for _, links := range roots {
		for _, link := range links {
			if link != "{censored}" {
				t.Errorf("sees root %s", link)
			}
		}
	}
}

func lie(t *testing.T) storepath.Path {
	p, err := storepath.ParseBase("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-made.drv")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSettingsOfUntrusted(t *testing.T) {
	w := newWorld(t)
	var heard tale
	ctx := activity.With(t.Context(), &heard)
	o := &Options{Verbosity: activity.Info, MaxJobs: 3, Overrides: map[string]string{
		"timeout": "5", "max-silent-time": "6", "build-poll-interval": "7", "builders": "", "sandbox": "false", "plugin-files": "/x",
		"substituters": "https://a.example/ https://b.example https://c.example", "ssh-auth-sock": "/x", "experimental-features": "flakes",
	}}
	c, err := NewClient(ctx, server(t, Session{Store: w, TrustedSubstituters: []string{"https://a.example", "https://c.example/"}}), ClientOptions{Options: o})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got := w.settings[0]
	want := map[string]string{
		"keep-failed": "false", "keep-going": "false", "fallback": "false", "max-jobs": "3", "max-silent-time": "6", "verbose-build": "false",
		"cores": "0", "substitute": "false", "timeout": "5", "build-poll-interval": "7", "builders": "",
		"substituters": "https://a.example/ https://c.example",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("settings are %v, not %v", got, want)
	}
	all := strings.Join(heard.lines, "\n")
	for _, words := range []string{
		"ignoring the client-specified setting 'sandbox', because it is a restricted setting and you are not a trusted user",
		"ignoring untrusted substituter 'https://b.example', you are not a trusted user.",
		"Ignoring the client-specified plugin-files",
	} {
		if !strings.Contains(all, words) {
			t.Errorf("was not told: %s", words)
		}
	}
	if strings.Contains(all, "ssh-auth-sock") || strings.Contains(all, "experimental") {
		t.Errorf("was told: %s", all)
	}
}
