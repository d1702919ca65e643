package sandbox_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/strata-nix/strata/builder/sandbox"
	"github.com/strata-nix/strata/internal/testenv"
)

type unixStat = syscall.Stat_t

func cgroup(t *testing.T, state string, u *sandbox.User) *sandbox.Cgroup {
	t.Helper()
	c, err := sandbox.NewCgroup(t.Context(), state, u)
	if err != nil {
		testenv.Skipf(t, "needs control groups (v2) of its own: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestCgroup(t *testing.T) {
	inModes(t, func(t *testing.T, m mode) {
		s := m.spec(t, `
			i=0; while test $i -lt 100000; do i=$((i+1)); done
			(setsid sh -c 'while :; do sleep 0 & done' &)
			cut -d: -f3 /proc/self/cgroup | tail -1
		`)
		state := testenv.Scratch(t)
		c := cgroup(t, state, m.user)
		s.Cgroup = c
		exit, out := start(t, s).end(t)
		if exit.Status != 0 || exit.User+exit.System <= 0 {
			t.Errorf("%+v", exit)
		}
		if group := strings.TrimSpace(out); m.isolated != (group == "/") || !m.isolated && !strings.Contains(group, "/nix-build-") {
			t.Errorf("the builder sees itself in %s", out)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Error("a second time:", err)
		}
		if notes, err := filepath.Glob(filepath.Join(state, "cgroups/*")); len(notes) > 0 || err != nil {
			t.Errorf("remembered: %v, %v", notes, err)
		}
	})
}

// A daemon that crashed left a group, with processes and groups in it.
func TestCgroupOfCrashedDaemon(t *testing.T) {
	u := buildUser(t, false)
	state := testenv.Scratch(t)
	cgroup(t, state, u)
	note := filepath.Join(state, "cgroups", strconv.Itoa(int(u.UID)))
	path, err := os.ReadFile(note)
	if err != nil {
		t.Fatal(err)
	}
	old := string(path)
	inner := filepath.Join(old, "inner", "most")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	s := shell(nil, "echo $$ >"+inner+"/cgroup.procs; echo ready; exec sleep 1000000")
	b := start(t, s)
	b.line(t)
	c := cgroup(t, state, u)
	if exit, _ := b.end(t); !exit.Status.Signaled() {
		t.Errorf("%+v", exit)
	}
	if _, err := os.Stat(inner); err == nil {
		t.Error("the groups are still there")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	// What is noted may be anything, and is not removed then.
	victim := testenv.Scratch(t)
	for _, bad := range []string{victim, "/sys/fs/cgroup", filepath.Dir(old)} {
		if err := os.WriteFile(note, []byte(bad), 0o644); err != nil {
			t.Fatal(err)
		}
		if c, err := sandbox.NewCgroup(t.Context(), state, u); err == nil {
			c.Close()
			t.Errorf("%s was taken for a group of a build", bad)
		}
	}
}
