package main

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	if os.Getenv(enteredEnv) != "" { // started by name of a descriptor
		main()
	}
	if rule := os.Getenv(seccompVar); rule != "" {
		becomeFiltered(rule)
	}
	if job := os.Getenv(walkVar); job != "" {
		walkReader(job)
	}
	testscript.Main(m, map[string]func(){"strata": main, "nix-daemon": main})
}

// TestScripts runs testdata/script. A script finds a fresh, empty store as the
// configured one; its directories are $STORE/nix/store and so on.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		Condition:           condition,
		Setup: func(e *testscript.Env) error {
			for _, kv := range e.Vars {
				if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "NIX_") {
					e.Setenv(name, "")
				}
			}
			e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
			e.Setenv("NIX_CONF_DIR", filepath.Join(e.WorkDir, "etc"))
			e.Setenv("STORE", filepath.Join(e.WorkDir, "root"))
			e.Setenv("NIX_REMOTE", "local?root="+filepath.Join(e.WorkDir, "root"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"waitsocket":  waitSocket,
			"waitclients": waitClients,
			"setenv":      setenv,
			"setbase":     setBase,
		},
	})
}

// waitSocket PATH waits until a daemon answers on a socket.
func waitSocket(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: waitsocket PATH")
	}
	path := ts.MkAbs(args[0])
	for range 3000 {
		c, err := net.Dial("unix", path)
		if err == nil {
			_ = c.Close()
			return
		}
		time.Sleep(10 * time.Millisecond) // polling another process
	}
	ts.Fatalf("nobody answers on %s", path)
}

// waitClients STATE waits until a daemon has noticed that its clients have gone, and nothing is a temporary
// root any more in its state directory.
func waitClients(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: waitclients STATE")
	}
	for range 3000 {
		entries, err := os.ReadDir(filepath.Join(ts.MkAbs(args[0]), "temproots"))
		ts.Check(err)
		if !slices.ContainsFunc(entries, func(e os.DirEntry) bool { fi, err := e.Info(); return err == nil && fi.Size() > 0 }) {
			return
		}
		time.Sleep(10 * time.Millisecond) // polling another process
	}
	ts.Fatalf("there are temporary roots in %s", args[0])
}

// setenv NAME FILE sets a variable to the first line of a file, such as stdout.
func setenv(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: setenv NAME FILE")
	}
	line, _, _ := strings.Cut(ts.ReadFile(args[1]), "\n")
	ts.Setenv(args[0], line)
}

// setBase is setenv for the base name of a path. A store path in full, in the
// environment of a process, is a root of the garbage collector.
func setBase(ts *testscript.TestScript, neg bool, args []string) {
	setenv(ts, neg, args)
	ts.Setenv(args[0], filepath.Base(ts.Getenv(args[0])))
}

func TestScriptsCoverAllCommands(t *testing.T) {
	for _, c := range newRootCommand(&globals{out: newOutput(os.Stdout), stderr: os.Stderr}, nil).Commands() {
		found := false
		files, err := filepath.Glob(filepath.Join("testdata", "script", "*.txtar"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			found = found || strings.Contains(string(text), "exec strata "+c.Name())
		}
		if !found {
			t.Errorf("no script runs 'strata %s'", c.Name())
		}
	}
}
