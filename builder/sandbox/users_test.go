package sandbox_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/builder/sandbox"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/internal/testenv"
)

// withAccounts runs the test again where /etc/passwd and /etc/group are these.
func withAccounts(t *testing.T, passwd, group string) bool {
	t.Helper()
	testenv.PrivilegedRoot(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return false
	}
	dir := testenv.Scratch(t)
	for name, content := range map[string]string{"passwd": passwd, "group": group} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(path, "/etc/"+name, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Unmount("/etc/"+name, 0) })
	}
	return true
}

func TestGroupMembers(t *testing.T) {
	if !withAccounts(t,
		"root:x:0:0::/:/bin/sh\nnixbld1:x:830001:30000::/:/noshell\nnixbld2:x:830002:30000::/:/noshell\n",
		"root:x:0:\nkvm:x:36:nixbld2,nixbld1\nnixbld:x:30000:nixbld1,nixbld2\nempty:x:30001:\nghosts:x:30002:nobodysname\nroots:x:30003:root\n",
	) {
		return
	}
	state := testenv.Scratch(t)
	users := sandbox.Users{StateDir: state, Group: "nixbld"}
	if !users.Enabled() {
		t.Error("there are no build users")
	}
	first := acquire(t, users, sandbox.Want{})
	if first.UID != 830001 || first.GID != 30000 || first.Count != 1 || fmt.Sprint(first.Groups) != "[36]" {
		t.Errorf("the first is %+v", first)
	}
	// Nix takes a user by a lock on a file of this name.
	nix, err := flock.Open(filepath.Join(state, "userpool/830002"))
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := nix.Try(flock.Exclusive); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if _, err := users.TryAcquire(t.Context(), sandbox.Want{}); !errors.Is(err, sandbox.ErrNoneFree) {
		t.Errorf("all are taken: %v", err)
	}
	nix.Close()
	second := acquire(t, users, sandbox.Want{})
	if second.UID != 830002 {
		t.Errorf("the second is %+v", second)
	}
	first.Release()
	if again := acquire(t, users, sandbox.Want{}); again.UID != 830001 {
		t.Errorf("the first comes back as %+v", again)
	}
	spec := shell(nil, "id -u; id -g; id -G")
	spec.User = second
	if out := run(t, spec); out != "830002\n30000\n30000 36\n" {
		t.Errorf("outside a sandbox: %s", out)
	}
	spec = shell(world(t), "cat /proc/self/uid_map /proc/self/gid_map; id -G")
	spec.User = second
	if out := strings.Join(strings.Fields(run(t, spec)), " "); !strings.HasPrefix(out, "1000 ") || strings.Contains(out, "36") {
		t.Errorf("in a sandbox: %s", out)
	}
	for group, says := range map[string]string{
		"empty": "has no members", "ghosts": "the user 'nobodysname' in the group 'ghosts' does not exist",
		"roots": "should not be a member", "nothing": "the group 'nothing' specified in 'build-users-group' does not exist",
		"-x": "does not exist", "a:b": "does not exist",
	} {
		_, err := sandbox.Users{StateDir: state, Group: group}.TryAcquire(t.Context(), sandbox.Want{})
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("group %s: %v, want %q", group, err, says)
		}
	}
	if _, err := users.TryAcquire(t.Context(), sandbox.Want{Range: true}); err == nil {
		t.Error("a member of a group has a range of ids")
	}
}

func acquire(t *testing.T, users sandbox.Users, w sandbox.Want) *sandbox.User {
	t.Helper()
	u, err := users.TryAcquire(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Release() })
	return u
}

func TestAllocatedIDs(t *testing.T) {
	if !withAccounts(t, "taken:x:900065536:1::/:/noshell\n", "nixbld:x:30000:\n") {
		return
	}
	users := sandbox.Users{StateDir: testenv.Scratch(t), Group: "nixbld", Auto: &sandbox.IDRange{Start: 900000000, Count: 2 * sandbox.RangeSize}}
	u := acquire(t, users, sandbox.Want{Isolated: true})
	if u.UID != 900000000 || u.GID != u.UID || u.Count != 1 {
		t.Errorf("%+v", u)
	}
	if _, err := users.TryAcquire(t.Context(), sandbox.Want{Isolated: true}); err == nil || !strings.Contains(err.Error(), "clashes with existing user account 'taken'") {
		t.Errorf("an id that somebody has: %v", err)
	}
	u.Release()
	if u := acquire(t, users, sandbox.Want{Range: true}); u.Count != sandbox.RangeSize || u.GID != 30000 {
		t.Errorf("%+v", u)
	}
	if _, err := os.Stat(filepath.Join(users.StateDir, "userpool2/slot-0")); err != nil {
		t.Error(err)
	}
	for _, bad := range []sandbox.IDRange{{0, sandbox.RangeSize}, {1, 1}, {1 << 31, 1<<31 + sandbox.RangeSize}, {^uint32(0), sandbox.RangeSize}} {
		users.Auto = &bad
		if _, err := users.TryAcquire(t.Context(), sandbox.Want{}); err == nil || errors.Is(err, sandbox.ErrNoneFree) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func TestOrdinaryUserHasNoBuildUsers(t *testing.T) {
	if !testenv.Unprivileged(t) {
		return
	}
	if (sandbox.Users{Group: "nixbld"}).Enabled() {
		t.Error("an ordinary user has build users")
	}
	spec := shell(nil, "")
	spec.User = &sandbox.User{UID: 12345, GID: 12345, Count: 1}
	startError(t, spec)
}

// What still runs as a user when he is taken was left by somebody who died.
func TestLeftoversOfUser(t *testing.T) {
	u := buildUser(t, false)
	s := shell(nil, "(setsid sleep 1000000 &); echo ready; exec sleep 1000000")
	s.User = u
	b := start(t, s)
	b.line(t)
	if err := sandbox.EndUser(u.UID); err != nil {
		t.Fatal(err)
	}
	noProcesses(t, u)
	b.end(t)
}

// Builders of many users at once do not touch each other.
func TestManyUsersAtOnce(t *testing.T) {
	var all sync.WaitGroup
	for i := range 8 {
		u := buildUser(t, false)
		s := shell(world(t), fmt.Sprintf("setsid sleep 1000000 & i=0; while test $i -lt 200; do i=$((i+1)); done; echo %d >/nix/store/out; exit %d", i, i))
		s.User = u
		all.Go(func() {
			exit, out := start(t, s).end(t)
			if exit.Status.ExitStatus() != i || exit.Killed {
				t.Errorf("builder %d: %+v\n%s", i, exit, out)
			}
			fi, err := os.Stat(filepath.Join(outside(s.Isolation, "/nix/store"), "out"))
			if err != nil || fi.Sys().(*unixStat).Uid != u.UID {
				t.Errorf("builder %d: %v", i, err)
			}
		})
	}
	all.Wait()
}

// A builder with a range of ids is root of a little world.
func TestRange(t *testing.T) {
	u := buildUser(t, true)
	s := shell(world(t), `
		id -u; id -g
		for f in uid gid; do read inside outside count </proc/self/${f}_map; echo $inside $count; done
		touch /etc/x /x
		echo >f; chown 1234:4321 f; stat -c %u:%g f
		mkdir m; mount -t tmpfs none m; touch m/x; umount m
		unshare -m true
		hostname other; hostname
		grep -c : /proc/net/dev
		ls /sys/class/net
		! umount /nix/store 2>/dev/null
		! mknod null c 1 3 2>/dev/null
	`)
	s.User = u
	cgroup, err := sandbox.NewCgroup(t.Context(), testenv.Scratch(t), u)
	if err == nil {
		defer cgroup.Close()
		s.Cgroup = cgroup
	}
	out := run(t, s)
	want := "0\n0\n0 65536\n0 65536\n1234:4321\nother\n1\nlo\n"
	if out != want {
		t.Errorf("got\n%s, want\n%s", out, want)
	}
	fi, err := os.Stat(filepath.Join(outside(s.Isolation, "/build"), "f"))
	if err != nil || fi.Sys().(*unixStat).Uid != u.UID+1234 {
		t.Errorf("%v", err)
	}
}
