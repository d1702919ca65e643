package execute_test

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
)

func TestStrangeOutputs(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for name, text := range map[string]string{
			"fifo":             "mkfifo $out",
			"fifo deep inside": "mkdir -p $out/a/b; mkfifo $out/a/b/c",
			"world-writable":   "mkdir $out; chmod 777 $out",
		} {
			t.Run(name, func(t *testing.T) { w.fails(t, script(text), store.OutputRejected) })
		}
		t.Run("device", func(t *testing.T) {
			// Who may not make one fails, and who may is refused.
			r, err := w.run(t, w.job(t, script("mknod $out c 1 3")))
			if err != nil || r.Status != store.OutputRejected && r.Status != store.PermanentFailure {
				t.Errorf("%+v, %v", r, err)
			}
		})
		for name, text := range map[string]string{
			"setuid":       "touch $out; chmod 4755 $out",
			"setgid":       "mkdir $out; chmod g+s $out",
			"other output": "echo x > $out; echo x > ${NIX_STORE}/00000000000000000000000000000000-x/file",
		} {
			t.Run(name, func(t *testing.T) { w.fails(t, script(text), store.PermanentFailure) })
		}
	})
}

// Nothing of a builder runs on, however it hides.
func TestChildrenDie(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for _, text := range []string{
			"sleep 1000 & echo $! > $out",
			"(sleep 1000 & sleep 1001 & exit 0) & echo x > $out",
			"setsid sleep 1000 < /dev/null > /dev/null 2>&1 & echo x > $out",
			"i=0; while [ $i -lt 200 ]; do sleep 1000 & i=$((i+1)); done; echo x > $out",
			"trap '' TERM INT HUP; (trap '' TERM INT HUP; while :; do sleep 1; done) & echo x > $out",
		} {
			start := time.Now()
			d := script("cd ..; echo " + strings.ReplaceAll(t.Name(), "/", "") + "; " + text)
			d.Env["STRATA_TEST_MARK"] = mark
			w.build(t, d)
			if took := time.Since(start); took > time.Minute {
				t.Errorf("%s: %v", text, took)
			}
			if pids := marked(t); len(pids) > 0 {
				t.Errorf("%s: left processes %v", text, pids)
			}
		}
	})
}

// mark is in the environment of builders that are looked for.
var mark = "strata-test-" + time.Now().Format("150405.000000000")

// marked finds processes with the mark.
func marked(t *testing.T) (pids []string) {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range found {
		if env, err := os.ReadFile(file); err == nil && strings.Contains(string(env), mark) {
			pids = append(pids, filepath.Base(filepath.Dir(file)))
		}
	}
	return pids
}

func TestLargeLog(t *testing.T) {
	testenv.Long(t)
	w := boxed(t)
	w.opts.PlainBuildLog = true
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const size = 256 << 20
	d := script("yes 0123456789012345678901234567890123456789012345678901234567890123456789 | head -c 268435456; echo x > $out")
	d.Env["PATH"] = "/bin"
	w.heard.deaf = true
	w.opts.SandboxPaths = append(w.opts.SandboxPaths,
		execute.SandboxPath{Target: "/bin/yes", Source: busybox}, execute.SandboxPath{Target: "/bin/head", Source: busybox})
	w.build(t, d)
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 64<<20 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	log, err := w.BuildLog(t.Context(), w.job(t, d).DrvPath)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if info, err := log.(*os.File).Stat(); err != nil || info.Size() != size {
		t.Errorf("%v, %v", info, err)
	}
}

func TestFullDisk(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	dir := testenv.Scratch(t)
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=24m,mode=755"); err != nil {
		testenv.Skipf(t, "mounting a tmpfs: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH) //nolint:errcheck // the namespace goes anyway
	w := newWorld(t, local.Options{Dir: "/nix/store", Root: dir}, boxed(t).opts)
	for _, text := range []string{"dd if=/dev/zero of=$out bs=1M count=100", "dd if=/dev/zero of=file bs=1M count=100"} {
		r := w.fails(t, script("alias dd='busybox dd'; "+text), store.TransientFailure)
		if !strings.HasSuffix(r.Message, "\nnote: build failure may have been caused by lack of free disk space") {
			t.Error(r.Message)
		}
	}
	w.build(t, script("echo x > $out"))
}

func TestStrangeCommands(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for name, c := range map[string]struct {
			change func(d *derivation.Derivation)
			want   store.BuildStatus
			says   string
		}{
			"NUL in an argument": {func(d *derivation.Derivation) { d.Args = append(d.Args, "a\x00b") }, store.InputRejected, "NUL"},
			"NUL in the builder": {func(d *derivation.Derivation) { d.Builder = "/bin/\x00sh" }, store.InputRejected, "NUL"},
			"NUL in a variable":  {func(d *derivation.Derivation) { d.Env["a"] = "\x00" }, store.InputRejected, "NUL"},
			"no builder":         {func(d *derivation.Derivation) { d.Builder = "" }, store.PermanentFailure, "No such file or directory"},
			"a directory":        {func(d *derivation.Derivation) { d.Builder = "/proc" }, store.PermanentFailure, "Permission denied"},
			"relative":           {func(d *derivation.Derivation) { d.Builder = "sh" }, store.PermanentFailure, "No such file or directory"},
			"too much":           {func(d *derivation.Derivation) { d.Env["a"] = strings.Repeat("a", 1<<20) }, store.PermanentFailure, "Argument list too long"},
			"many":               {func(d *derivation.Derivation) { d.Args = append(d.Args, slices.Repeat([]string{"argument"}, 1<<18)...) }, store.PermanentFailure, "Argument list too long"},
		} {
			t.Run(name, func(t *testing.T) {
				d := script("echo x > $out")
				j := w.job(t, d)
				c.change(d)
				r, err := w.run(t, j)
				if err != nil {
					t.Fatal(err)
				}
				if text := r.Message + strings.Join(w.heard.lines, "\n"); r.Status != c.want || !strings.Contains(text, c.says) {
					t.Errorf("status %d: %.1000s", r.Status, text)
				}
			})
		}
	})
}
