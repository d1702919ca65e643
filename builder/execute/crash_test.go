package execute_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/storepath"
)

// crashVariable names the directory in which a child process builds without end,
// and how.
const crashVariable = "STRATA_TEST_CRASH"

// crashing makes the store of the child and of the one after it.
func crashing(t *testing.T, kind, dir string) *world {
	t.Helper()
	if kind == "boxed" {
		return newWorld(t, local.Options{Root: dir}, boxed(t).opts)
	}
	return newWorld(t, local.Options{Dir: storepath.Dir(dir + "/s"), Root: dir, Real: dir + "/s"}, execute.Options{Sandbox: execute.Unboxed})
}

// endless builds until something ends it.
const endless = "mkdir -p a/b; echo half > $out; echo started; sleep 1000 & sleep 1000"

// When the process is killed that builds, so is the builder; and the next one that
// builds the same finds a clean place.
func TestKilledWhileBuilding(t *testing.T) {
	if kind, dir, ok := strings.Cut(os.Getenv(crashVariable), ":"); ok {
		w := crashing(t, kind, dir)
		started := make(chan struct{})
		w.heard.first = started
		go func() {
			<-started
			fmt.Println("started")
		}()
		d := script(endless)
		d.Env["STRATA_TEST_MARK"] = os.Getenv("STRATA_TEST_MARK")
		_, err := w.run(t, w.job(t, d))
		t.Fatalf("it ended: %v", err)
	}
	for _, kind := range []string{"boxed", "unboxed"} {
		t.Run(kind, func(t *testing.T) {
			dir := testenv.Scratch(t)
			w := crashing(t, kind, dir)
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestKilledWhileBuilding$") //nolint:gosec // ourselves
			cmd.Env = append(os.Environ(), crashVariable+"="+kind+":"+dir, "STRATA_TEST_MARK="+mark)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			child := testenv.Start(t, cmd)
			for lines := bufio.NewScanner(out); ; {
				if !lines.Scan() {
					t.Fatalf("the child ended: %v\n%s", lines.Err(), child.Output())
				}
				if lines.Text() == "started" {
					break
				}
			}
			child.Kill()
			if len(names(t, w.StateDir()+"/builds")) == 0 {
				t.Error("nothing was left, so this test tests nothing")
			}
			w.opts.Timeout = 1 // nanosecond: the same derivation, but not as long
			d := script(endless)
			d.Env["STRATA_TEST_MARK"] = mark
			w.fails(t, d, store.TimedOut)
			if pids := marked(t); len(pids) > 0 {
				t.Errorf("processes %v are left", pids)
			}
		})
	}
}
