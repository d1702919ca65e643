package execute_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
)

// program makes an executable script.
func program(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(testenv.Scratch(t), "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	return path
}

func TestPreBuildHookShowsPaths(t *testing.T) {
	w := boxed(t)
	dir := testenv.Scratch(t)
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("shown\n"), 0o644); err != nil { //nolint:gosec // others read it
		t.Fatal(err)
	}
	w.opts.PreBuildHook = program(t, `[ -d "$2/.." ] || exit 1; echo "$1" > `+dir+`/drv; echo extra-sandbox-paths; echo /extra=`+dir+`; echo`)
	d := script(`while read line; do echo "$line"; done < /extra/file > $out`)
	if got := w.text(t, w.build(t, d), "out"); got != "shown\n" {
		t.Errorf("%q", got)
	}
	if drv, err := os.ReadFile(filepath.Join(dir, "drv")); string(drv) != w.Dir().Print(w.job(t, d).DrvPath)+"\n" {
		t.Errorf("%q, %v", drv, err)
	}
	w.opts.PreBuildHook = program(t, "echo no >&2; exit 4")
	if _, err := w.run(t, w.job(t, script("echo y > $out"))); err == nil || !strings.HasSuffix(err.Error(), "failed with exit code 4") {
		t.Errorf("%v", err)
	}
	if !slices.Contains(w.heard.logged, "no") {
		t.Errorf("logged %q", w.heard.logged)
	}
}

func TestPostBuildHookHearsOfOutputs(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.opts.Config = "a = b\n"
		w.opts.PostBuildHook = program(t, `echo "drv $DRV_PATH"; echo "out $OUT_PATHS" >&2; printf %s "$NIX_CONFIG"; printf end`)
		d := script("echo x > $out; echo y > $doc", "doc")
		r := w.build(t, d)
		outs := []string{w.Dir().Print(r.Outputs["out"].OutPath), w.Dir().Print(r.Outputs["doc"].OutPath)}
		slices.Sort(outs)
		want := []string{"drv " + w.Dir().Print(w.job(t, d).DrvPath), "out " + strings.Join(outs, " "), "a = b", "end"}
		if got := w.heard.logged[len(w.heard.logged)-4:]; !slices.Equal(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
		w.opts.PostBuildHook = program(t, "exit 5")
		r, err := w.run(t, w.job(t, script("echo z > $out")))
		if err == nil || err.Error() != "program '"+w.opts.PostBuildHook+"' failed with exit code 5" || r == nil || r.Status != store.Built {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

func TestSandboxPaths(t *testing.T) {
	w := boxed(t)
	dir := testenv.Scratch(t)
	w.opts.SandboxPaths = append(w.opts.SandboxPaths,
		execute.SandboxPath{Target: "/here", Source: dir}, execute.SandboxPath{Target: "/no/such/path", Optional: true})
	w.build(t, script(`[ -d /here ]; [ ! -e /no ]; echo x > $out`))
	w.opts.SandboxPaths = append(w.opts.SandboxPaths, execute.SandboxPath{Target: "/no/such/path"})
	if r, err := w.run(t, w.job(t, script("echo y > $out"))); err == nil || !strings.Contains(err.Error(), "/no/such/path") {
		t.Errorf("%+v, %v", r, err)
	}
	w.opts.SandboxPaths = w.opts.SandboxPaths[:1]
	etc := testenv.Scratch(t)
	w.opts.SandboxPaths = append(w.opts.SandboxPaths, execute.SandboxPath{Target: "/etc", Source: etc})
	w.build(t, script("[ ! -e /etc/passwd ]; echo etc > $out"))
	if info, err := os.Stat(etc); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("a directory of the machine has changed: %v, %v", info, err)
	}
	w.opts.SandboxPaths, w.opts.SandboxBuildDir = w.opts.SandboxPaths[:1], "/nix"
	if _, err := w.run(t, w.job(t, script("echo y > $out"))); err == nil || !strings.Contains(err.Error(), "`sandbox-build-dir` must not contain the storeDir") {
		t.Errorf("%v", err)
	}
	w.opts.SandboxBuildDir = "/elsewhere"
	if got := w.text(t, w.build(t, script(`echo $TMPDIR $PWD > $out`)), "out"); got != "/elsewhere /elsewhere\n" {
		t.Errorf("%q", got)
	}
}
