package builder_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strata-nix/strata/builder"
	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/nixconf"
)

func obey(t *testing.T, o builder.Options, text string) (builder.Options, error) {
	t.Helper()
	c := nixconf.New()
	if err := c.ApplyText("nix.conf", text); err != nil {
		return o, err
	}
	return o, o.Obey(c)
}

func TestSettings(t *testing.T) {
	base := builder.Options{MaxJobs: 1, System: "x86_64-linux"}
	base.Execute.SystemFeatures = []string{"benchmark"}
	o, err := obey(t, base, `
max-jobs = 3
keep-going = true
timeout = 10
max-silent-time = 20
max-build-log-size = 1K
log-lines = 0
extra-system-features = kvm
extra-platforms = i686-linux
sandbox = relaxed
sandbox-paths = /bin/sh=/usr/bin/sh /dev/net?
compress-build-log = false
diff-hook = /hook
experimental-features = ca-derivations
`)
	if err != nil {
		t.Fatal(err)
	}
	e := o.Execute
	want := builder.Options{
		MaxJobs: 3, KeepGoing: true, System: "x86_64-linux", ExtraPlatforms: []string{"i686-linux"}, DiffHook: "/hook",
		Execute: execute.Options{
			Timeout: 10 * time.Second, MaxSilentTime: 20 * time.Second, MaxBuildLogSize: 1024, LogLines: -1,
			SystemFeatures: []string{"benchmark", "kvm"}, Features: []string{"ca-derivations"}, Sandbox: execute.Relaxed,
			SandboxPaths:  []execute.SandboxPath{{Target: "/bin/sh", Source: "/usr/bin/sh"}, {Target: "/dev/net", Optional: true}},
			PlainBuildLog: true, Config: e.Config,
		},
	}
	if !reflect.DeepEqual(o, want) {
		t.Errorf("%+v,\nnot %+v", o, want)
	}
	for _, line := range []string{"max-jobs = 3\n", "extra-system-features = kvm\n", "sandbox = relaxed\n"} {
		if !strings.Contains(e.Config, line) {
			t.Errorf("%q is not in what a hook gets: %q", line, e.Config)
		}
	}
}

func TestOverrides(t *testing.T) {
	base, err := obey(t, builder.Options{MaxJobs: 1}, "sandbox-paths = /a\ndiff-hook = /hook\nexperimental-features = configurable-impure-env\n")
	if err != nil {
		t.Fatal(err)
	}
	o, err := base.Override(map[string]string{
		"max-jobs": "8", "build-timeout": "7", "extra-sandbox-paths": "/b", "run-diff-hook": "true", "impure-env": "A=1",
		"substituters": "https://example.org", "no-such-setting": "x", "experimental-features": "recursive-nix",
	})
	if err != nil {
		t.Fatal(err)
	}
	e := o.Execute
	if o.MaxJobs != 8 || e.Timeout != 7*time.Second || len(e.SandboxPaths) != 2 || e.DiffHook != "/hook" || e.ImpureEnv["A"] != "1" ||
		!slices.Equal(e.Features, []string{"configurable-impure-env"}) {
		t.Errorf("%+v", o)
	}
	if base.MaxJobs != 1 || len(base.Execute.SandboxPaths) != 1 {
		t.Errorf("the options themselves changed: %+v", base)
	}
	for name, value := range map[string]string{
		"max-jobs": "many", "sandbox": "maybe", "timeout": "-1", "cores": "x", "secret-key-files": "/no/such/file", "build-dir": "relative",
	} {
		o, err := base.Override(map[string]string{name: value, "keep-going": "true"})
		if err == nil {
			t.Errorf("%s = %s was accepted", name, value)
		}
		if !o.KeepGoing {
			t.Errorf("%s = %s keeps other settings from being obeyed", name, value)
		}
		o.KeepGoing, o.Execute.Config, base.Execute.Config = false, "", ""
		if !reflect.DeepEqual(o, base) {
			t.Errorf("%s = %s changed %+v to %+v", name, value, base, o)
		}
	}
}
