package execute_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

func TestBuild(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := w.build(t, script(`echo working; echo "hello $0" > $out; echo two > $doc`, "doc"))
		if got := w.text(t, r, "out") + w.text(t, r, "doc"); got != "hello sh\ntwo\n" {
			t.Errorf("%q", got)
		}
		if !slices.Equal(w.heard.lines, []string{"working"}) {
			t.Errorf("log %q", w.heard.lines)
		}
		if r.TimesBuilt != 1 || r.Start == 0 || r.Stop < r.Start {
			t.Errorf("%+v", r)
		}
	})
}

func TestBuilderFails(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		d := script("echo a; echo b; echo half > $out; exit 3")
		r := w.fails(t, d, store.PermanentFailure)
		j := w.job(t, d)
		drv := w.Dir().Print(j.DrvPath)
		want := "Cannot build '" + drv + "'.\nReason: builder failed with exit code 3.\nOutput paths:\n  " + w.Dir().Print(j.Outputs["out"].Path) +
			"\nLast 2 log lines:\n> a\n> b\nFor full logs, run:\n  nix-store -l " + drv
		if r.Message != want {
			t.Errorf("got:\n%s\nwant:\n%s", r.Message, want)
		}
		w.opts.Features, w.opts.LogLines = []string{"nix-command"}, 1
		r = w.fails(t, d, store.PermanentFailure)
		if !strings.HasSuffix(r.Message, "\nLast 1 log lines:\n> b\nFor full logs, run:\n  nix log "+drv) {
			t.Errorf("got:\n%s", r.Message)
		}
	})
}

func TestBuilderIsNotThere(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		d := script("")
		d.Builder = "/no/such/builder"
		r := w.fails(t, d, store.PermanentFailure)
		if !strings.Contains(r.Message, "failed with exit code 1") || !slices.Equal(w.heard.lines, []string{"error: executing '/no/such/builder': No such file or directory"}) {
			t.Errorf("%s\n%q", r.Message, w.heard.lines)
		}
	})
}

func TestBuilderDiesBySignal(t *testing.T) {
	w := unboxed(t) // in a sandbox it is process 1, which can do that to itself only by a fault
	if r := w.fails(t, script("kill -SEGV $$"), store.PermanentFailure); !strings.Contains(r.Message, "Reason: builder failed due to signal 11 (Segmentation fault).") {
		t.Error(r.Message)
	}
}

func TestOutputIsMissing(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := w.fails(t, script("true"), store.OutputRejected)
		if !strings.Contains(r.Message, "failed to produce output path for output 'out'") {
			t.Error(r.Message)
		}
	})
}

func TestLogIsKept(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for _, c := range []struct {
			plain bool
			exit  string
			ok    store.BuildStatus
		}{{false, "0", store.Built}, {true, "1", store.PermanentFailure}, {false, "1", store.PermanentFailure}} {
			w.opts.PlainBuildLog = c.plain
			d := script(`echo one; echo '@nix {"action":"setPhase","phase":"p"}'; printf '\377two' >&2; echo x > $out; exit ` + c.exit)
			d.Name = "log" + c.exit
			w.fails(t, d, c.ok)
			log, err := w.BuildLog(t.Context(), w.job(t, d).DrvPath)
			if err != nil {
				t.Fatal(err)
			}
			text, err := readAll(log)
			if want := "one\n@nix {\"action\":\"setPhase\",\"phase\":\"p\"}\n\xfftwo"; err != nil || string(text) != want {
				t.Errorf("%q, %v", text, err)
			}
		}
		if !slices.Equal(w.heard.lines[:2], []string{"one", "\xfftwo"}) || !slices.Equal(w.heard.phases, []string{"p", "p", "p"}) {
			t.Errorf("heard %q and phases %q", w.heard.lines, w.heard.phases)
		}
		w.opts.NoBuildLog = true
		d := script("echo x > $out")
		w.build(t, d)
		if _, err := w.BuildLog(t.Context(), w.job(t, d).DrvPath); !errors.Is(err, store.ErrNoLog) {
			t.Errorf("%v", err)
		}
	})
}

func TestLimitsKillBuilders(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.opts.MaxSilentTime = 200 * time.Millisecond
		endless := script("echo x > $out; while :; do sleep 10; done")
		if r := w.fails(t, endless, store.TimedOut); !strings.Contains(r.Message, "timed out after") {
			t.Error(r.Message)
		}
		w.opts.MaxSilentTime, w.opts.Timeout = 0, 200*time.Millisecond
		w.fails(t, endless, store.TimedOut)
		w.opts.Timeout, w.opts.MaxBuildLogSize = 0, 10000
		r := w.fails(t, script("while :; do echo 0123456789012345678901234567890123456789; done"), store.LogLimitExceeded)
		if !strings.Contains(r.Message, "killed after writing more than 10000 bytes of log output") {
			t.Error(r.Message)
		}
	})
}

func TestCancelledBuildsLeaveNothing(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx, cancel := context.WithCancelCause(t.Context())
		enough := errors.New("enough")
		started := make(chan struct{})
		w.heard.first = started
		go func() {
			<-started
			cancel(enough)
		}()
		r, err := w.runIn(ctx, t, w.job(t, script("echo x > $out; mkdir -p d/e; echo started; while :; do sleep 10; done")))
		if r != nil || !errors.Is(err, enough) {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

func TestKeepFailed(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.opts.KeepFailed = true
		j := w.job(t, script("echo note > note; echo half > $out; exit 1"))
		if r, err := w.run(t, j); err != nil || r.Status != store.PermanentFailure {
			t.Fatalf("%+v, %v", r, err)
		}
		_, dir, found := strings.Cut(strings.Join(w.heard.logged, "\n"), `note: keeping build directory "`)
		if !found {
			t.Fatalf("logged %q", w.heard.logged)
		}
		dir, _, _ = strings.Cut(dir, `"`)
		if text, err := os.ReadFile(filepath.Join(dir, "note")); string(text) != "note\n" {
			t.Errorf("%q, %v", text, err)
		}
		if text, err := os.ReadFile(filepath.Join(w.RealDir(), j.Outputs["out"].Path.Base())); string(text) != "half\n" {
			t.Errorf("%q, %v", text, err)
		}
		// It is no more than something to look at.
		if r, err := w.run(t, w.job(t, script("echo note > note; echo half > $out; exit 1"))); err != nil || r.Status != store.PermanentFailure {
			t.Fatalf("%+v, %v", r, err)
		}
	})
}

func TestPlaceIsTaken(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		j := w.job(t, script("echo new > $out"))
		for _, dir := range []string{j.Outputs["out"].Path.Base(), j.DrvPath.Base() + ".chroot"} {
			if err := os.MkdirAll(filepath.Join(w.RealDir(), dir, "left/behind"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		r, err := execute.New(w.backing, w.opts).Build(t.Context(), j)
		if err != nil || r.Status != store.Built {
			t.Fatalf("%+v, %v", r, err)
		}
		if got := w.text(t, r, "out"); got != "new\n" {
			t.Errorf("%q", got)
		}
	})
}

func TestFixedOutputs(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		t.Setenv("proxy_of_this_test", "here")
		d := flat(script(`[ "$NIX_OUTPUT_CHECKED" = 1 ]; printf %s "$proxy_of_this_test" > $out`), "here")
		d.Env["impureEnvVars"] = "proxy_of_this_test"
		w.build(t, d)
		r := w.fails(t, flat(script("printf wrong > $out"), "right"), store.HashMismatch)
		for _, h := range []string{"wrong", "right"} {
			if sri := nixhash.Of(nixhash.SHA256, h).Text(nixhash.SRI); !strings.Contains(r.Message, sri) {
				t.Errorf("no %s in %s", sri, r.Message)
			}
		}
	})
	w := boxed(t)
	w.fails(t, flat(script("exit 1"), "x"), store.TransientFailure)
	w.build(t, flat(script("cat /etc/nsswitch.conf > $out"), "hosts: files dns\nservices: files\n"))
}

func TestFloatingOutputs(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		d := script(`mkdir $out; echo $out > $out/self; echo "$out" > $doc`, "doc")
		for name := range d.Outputs {
			d.Outputs[name] = derivation.Output{Kind: derivation.Floating, Spec: storepath.Spec{Method: storepath.Recursive, Algorithm: nixhash.SHA256}}
		}
		r := w.build(t, d)
		out, doc := r.Outputs["out"].OutPath, r.Outputs["doc"].OutPath
		text, err := os.ReadFile(filepath.Join(w.RealDir(), out.Base(), "self"))
		if want := w.Dir().Print(out) + "\n"; err != nil || string(text) != want || w.text(t, r, "doc") != want {
			t.Errorf("%q and %q instead of %q, %v", text, w.text(t, r, "doc"), want, err)
		}
		if doc.Name() != "x-doc" {
			t.Errorf("%s", doc.Base())
		}
	})
}

// What is valid already is neither touched nor seen.
func TestSomeOutputsAreValid(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		d := script(`echo "doc of $out" > $doc; echo new > $out`, "doc")
		j := w.job(t, d)
		info, err := w.AddDump(t.Context(), store.Dump{
			Name: "other", Spec: storepath.Spec{Method: storepath.Flat, Algorithm: nixhash.SHA256}, Contents: strings.NewReader("old\n"),
		}, store.AddOptions{})
		if err != nil {
			t.Fatal(err)
		}
		// Make the output valid with other contents.
		out := j.Outputs["out"].Path
		old := info.Clone()
		old.Path, old.CA = out, storepath.ContentAddress{}
		nar := &strings.Builder{}
		if err := w.NarFromPath(t.Context(), info.Path, nar); err != nil {
			t.Fatal(err)
		}
		if err := w.Add(t.Context(), old, strings.NewReader(nar.String()), store.AddOptions{NoCheckSigs: true}); err != nil {
			t.Fatal(err)
		}
		r := w.build(t, d)
		if got := w.text(t, r, "out"); got != "old\n" {
			t.Errorf("a valid output became %q", got)
		}
		if got := w.text(t, r, "doc"); got != "doc of "+w.Dir().Print(out)+"\n" {
			t.Errorf("doc is %q", got)
		}
	})
}

func TestCheckMode(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		same := script("echo same > $out")
		w.build(t, same)
		j := w.job(t, same)
		j.Mode = store.BuildCheck
		if r, err := w.run(t, j); err != nil || r.Status != store.Built {
			t.Errorf("%+v, %v", r, err)
		}
		other := script("date +%N > $out; cat /proc/sys/kernel/random/uuid > $out")
		w.build(t, other)
		j = w.job(t, other)
		j.Mode = store.BuildCheck
		if r, err := w.run(t, j); err != nil || r.Status != store.NotDeterministic || !r.NonDeterministic {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

func TestNoChroot(t *testing.T) {
	w := unboxed(t)
	d := script("[ -e /etc/passwd ] && echo x > $out")
	d.Env["__noChroot"] = "1"
	w.build(t, d)
	w.opts.Sandbox = execute.Sandboxed
	d = script("echo y > $out")
	d.Env["__noChroot"] = "1"
	j := w.job(t, d)
	want := "derivation '" + w.Dir().Print(j.DrvPath) + "' has '__noChroot' set, but that's not allowed when 'sandbox' is 'true'"
	if r, err := w.run(t, j); err != nil || r.Status != store.MiscFailure || r.Message != want {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestGraphOutsideOfTheInputs(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		p, err := storepath.ParseBase("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-nobody")
		if err != nil {
			t.Fatal(err)
		}
		d := script("echo x > $out")
		d.Env["exportReferencesGraph"] = "graph " + w.Dir().Print(p)
		w.fails(t, d, store.InputRejected)
	})
}
