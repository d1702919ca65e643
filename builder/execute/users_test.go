package execute_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/builder/sandbox"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/storepath"
)

// withGroup gives this mount namespace a group of build users, nixbld.
func withGroup(t *testing.T) {
	t.Helper()
	dir := testenv.Scratch(t)
	for file, more := range map[string]string{
		"/etc/passwd": "nixbld1:x:31001:31000::/:/bin/false\nnixbld2:x:31002:31000::/:/bin/false\n",
		"/etc/group":  "nixbld:x:31000:nixbld1,nixbld2\n",
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		changed := filepath.Join(dir, filepath.Base(file))
		if err := os.WriteFile(changed, append(text, more...), 0o644); err != nil { //nolint:gosec // everybody reads it
			t.Fatal(err)
		}
		if err := unix.Mount(changed, file, "", unix.MS_BIND, ""); err != nil {
			testenv.Skipf(t, "showing another %s: %v", file, err)
		}
	}
}

func TestBuildUsers(t *testing.T) {
	testenv.PrivilegedRoot(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	withGroup(t)
	dir := testenv.Scratch(t)
	box, naked := boxed(t), newWorld(t, local.Options{
		Dir: storepath.Dir(dir + "/s"), Root: dir, Real: dir + "/s", BuildUsersGroup: "nixbld",
	}, execute.Options{Sandbox: execute.Unboxed})
	for w, ids := range map[*world]string{box: "1000:100", naked: "31001:31000"} {
		w.opts.Users = sandbox.Users{Group: "nixbld"}
		w.opts.KeepFailed = true
		d := script(`echo "$(id -u):$(id -g)" > $out; [ -O "$NIX_BUILD_TOP" ] && [ -O .attr* ]; stat -c %a . >> $out; touch /tmp/x$$ ; rm /tmp/x$$`)
		d.Env["long"], d.Env["passAsFile"] = "x", "long"
		r := w.build(t, d)
		if got := w.text(t, r, "out"); got != ids+"\n700\n" {
			t.Errorf("%q", got)
		}
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(w.RealDir(), r.Outputs["out"].OutPath.Base()), &st); err != nil || st.Uid != 0 || st.Gid != 0 {
			t.Errorf("the output belongs to %d:%d, %v", st.Uid, st.Gid, err)
		}
		w.fails(t, script("echo keep > me; exit 1"), store.PermanentFailure)
		_, kept, _ := strings.Cut(strings.Join(w.heard.logged, "\n"), `keeping build directory "`)
		kept, _, _ = strings.Cut(kept, `"`)
		if err := unix.Lstat(kept+"/me", &st); err != nil || st.Uid != 31001 {
			t.Errorf("what is kept belongs to %d, %v", st.Uid, err)
		}
		if err := os.RemoveAll(filepath.Join(w.StateDir(), "builds")); err != nil {
			t.Fatal(err)
		}
	}
	w := naked
	w.opts.KeepFailed = false
	t.Run("writes elsewhere", func(t *testing.T) {
		for _, text := range []string{
			"echo x > ../x", "rm -rf $NIX_STORE/.links", "chmod 777 $NIX_STORE", "mkdir " + w.StateDir() + "/x", "ls " + filepath.Join(w.StateDir(), "userpool") + "/x",
		} {
			w.fails(t, script(text), store.PermanentFailure)
		}
	})
}

func TestRangeOfUsers(t *testing.T) {
	testenv.PrivilegedRoot(t)
	w := boxed(t)
	d := script(`[ "$(id -u)" = 0 ]; chown 5:7 .; rm /etc/passwd; echo x > /etc/passwd; cat /proc/self/uid_map > $out`)
	d.Env["requiredSystemFeatures"] = "uid-range"
	if r := w.fails(t, d, store.MiscFailure); r.Message != "feature 'uid-range' requires the setting 'auto-allocate-uids' to be enabled" {
		t.Error(r.Message)
	}
	w.opts.Users = sandbox.Users{Auto: &sandbox.IDRange{Start: sandbox.DefaultStartID, Count: sandbox.DefaultIDCount}}
	w.build(t, script("id -u > $out"))
	if r := w.fails(t, d, store.MiscFailure); !strings.HasPrefix(r.Message, "experimental Nix feature 'cgroups' is disabled") {
		t.Error(r.Message)
	}
	if able := sandbox.Probe(t.Context()); able.Cgroups != nil {
		testenv.Skip(t, able.Cgroups.Error())
	}
	w.opts.Features = []string{"cgroups"}
	r := w.build(t, d)
	if got := strings.Fields(w.text(t, r, "out")); len(got) != 3 || got[0] != "0" || got[2] != "65536" {
		t.Errorf("%q", got)
	}
}

func TestBuildsOfOrdinaryUsers(t *testing.T) {
	if !testenv.Unprivileged(t) {
		return
	}
	each(t, func(t *testing.T, w *world) {
		w.build(t, script("mkdir -p $out/bin; echo x > $out/bin/x; chmod 555 $out/bin"))
		w.fails(t, script("mkdir -p ro/dir; chmod 500 ro; mkdir $out; chmod 0 $out; exit 1"), store.PermanentFailure)
	})
}
