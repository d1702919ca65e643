package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/strata-nix/strata/internal/mount"
	"github.com/strata-nix/strata/internal/testenv"
)

// upkeep is a stack over a directory, an image and a lazy lower, and stock Nix as its client.
type upkeep struct {
	*rig
	nix *testenv.NixEnv
	// An object of each lower; spare is in the directory, and in the lazy lower, too.
	plain, image, lazy, spare string
}

// What an operator of a store does with stock Nix works on a stack, and does no lower any harm.
func TestUpkeepByStockNix(t *testing.T) {
	testenv.Long(t)
	testenv.FUSE(t)
	for _, version := range testenv.NixVersions() {
		t.Run(version, func(t *testing.T) {
			if testenv.Isolate(t, testenv.Namespace{PIDs: true}) {
				newUpkeep(t, testenv.Nix(t, version)).all()
			}
		})
	}
}

func newUpkeep(t *testing.T, nix *testenv.NixEnv) *upkeep {
	u := &upkeep{rig: newRig(t, nix.Dir), nix: nix}
	add := func(root, name string) string {
		return u.run("add", "--store", "local?root="+u.path(root), u.write(name, "contents of "+name))
	}
	u.plain, u.spare = add("base", "plain"), add("base", "spare")
	u.image, u.lazy = add("imaged", "image"), add("cached", "lazy")
	add("cached", "spare")
	image := u.path("imaged")
	if initialRoot() {
		image = u.path("image.erofs")
		u.run("merge", u.path("imaged"), image)
	}
	u.run("push", "--store", "local?root="+u.path("cached"), "file://"+u.path("cache"), u.lazy, u.spare)
	u.write("strata.toml", fmt.Sprintf("root = %q\nupper.dir = %q\n[[lower]]\npath = %q\n[[lower]]\npath = %q\n[[lower]]\nlazy = [%q]\ncache = %q\n",
		u.dir, u.path("upper"), u.path("base"), image, "file://"+u.path("cache")+"?trusted=true", u.path("lazy-cache")))
	p := testenv.Start(t, u.command("up", "-c", u.path("strata.toml")))
	p.WaitSocket(u.path("upper/control"))
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	return u
}

func (u *upkeep) all() {
	for _, step := range []func(){u.lists, u.deletes, u.optimises, u.verifies, u.collects} {
		step()
		if got := u.nix.Run(u.t, "cat", u.plain, u.image, u.lazy, u.spare); got != "contents of plaincontents of imagecontents of lazycontents of spare" {
			u.t.Errorf("the lowers are seen as %q", got)
		}
	}
	// The lower that was damaged still is, and nobody sees it.
	if out := u.run("check", "--upper", u.path("upper"), "--contents"); !strings.Contains(out, "0 × damage") || !strings.Contains(out, "covered-object-modified") {
		u.t.Errorf("a check says %s", out)
	}
}

// add puts an object into the upper; by root a link keeps it.
func (u *upkeep) add(name, contents string, root bool) string {
	u.t.Helper()
	p := strings.TrimSpace(u.nix.Run(u.t, "nix-store", "--add", u.nix.WriteFile(u.t, name, contents)))
	if root {
		u.nix.Run(u.t, "nix-store", "--realise", "--add-root", "/nix/var/nix/gcroots/"+name, "--indirect", p)
	}
	return p
}

func (u *upkeep) inUpper(path string) string { return u.path("upper/layer/" + filepath.Base(path)) }

func (u *upkeep) lists() {
	live, dead := u.add("live", "live", true), u.add("dead", "dead", false)
	ask := func(what string) string { return u.nix.Run(u.t, "nix-store", "--gc", what) }
	if out := ask("--print-roots"); !strings.Contains(strings.ReplaceAll(out, `"`, ""), "gcroots/live -> "+live) {
		u.t.Errorf("roots are %s", out)
	}
	if out := ask("--print-live"); !strings.Contains(out, live) || strings.Contains(out, dead) {
		u.t.Errorf("alive are %s", out)
	}
	if out := ask("--print-dead"); strings.Contains(out, live) || !strings.Contains(out, dead) {
		u.t.Errorf("dead are %s", out)
	}
}

func (u *upkeep) deletes() {
	gone := u.add("gone", "gone", false)
	u.nix.Run(u.t, "nix-store", "--delete", gone)
	u.nix.RunFails(u.t, "nix-store", "--check-validity", gone)
	if _, err := os.Lstat(u.inUpper(gone)); err == nil {
		u.t.Errorf("%s is still there", gone)
	}
	live := u.add("kept", "kept", true)
	if out := u.nix.RunFails(u.t, "nix-store", "--delete", live); !strings.Contains(out, "still alive") {
		u.t.Errorf("deleting what is alive: %s", out)
	}
	// What is a lower's stays, however it is asked for.
	out, err := u.nix.Command(u.t.Context(), "nix-store", "--delete", u.plain).CombinedOutput()
	u.t.Logf("deleting what a lower has: %v, %s", err, out)
	u.nix.Run(u.t, "nix-store", "--check-validity", u.plain)
}

func (u *upkeep) optimises() {
	a, b := u.add("one", "the same contents", true), u.add("two", "the same contents", true)
	u.nix.Run(u.t, "nix-store", "--optimise")
	var inodes [2]uint64
	for i, p := range []string{a, b} {
		var st syscall.Stat_t
		if err := syscall.Lstat(u.inUpper(p), &st); err != nil {
			u.t.Fatal(err)
		}
		inodes[i] = st.Ino
	}
	if inodes[0] != inodes[1] {
		u.t.Error("equal files are two")
	}
}

// verifies damages an object of the upper that nobody else has, and one of a lower that another
// lower has.
func (u *upkeep) verifies() {
	u.nix.Run(u.t, "nix-store", "--verify", "--check-contents")
	needs := u.run("add", "--store", "unix://"+u.path("upper/state/daemon-socket/socket"), "--mode", "text", "--reference", u.spare, u.write("needs", u.spare))
	u.spoil(filepath.Join(u.path("base/nix/store"), filepath.Base(u.spare)))
	if out := u.nix.RunFails(u.t, "nix-store", "--verify", "--check-contents"); !strings.Contains(out, u.spare) {
		u.t.Errorf("a damaged lower: %s", out)
	}
	u.nix.Run(u.t, "nix-store", "--verify", "--check-contents", "--repair")
	u.nix.Run(u.t, "nix-store", "--verify", "--check-contents")
	if _, err := os.Lstat(u.inUpper(u.spare)); err != nil {
		u.t.Errorf("what a lower has lost is not in the upper: %v", err)
	}
	u.nix.Run(u.t, "nix-store", "--realise", "--add-root", "/nix/var/nix/gcroots/needs", "--indirect", needs)

	lost := u.add("lost", "lost", false)
	u.spoil(u.inUpper(lost))
	if out := u.nix.RunFails(u.t, "nix-store", "--verify", "--check-contents", "--repair"); !strings.Contains(out, lost) {
		u.t.Errorf("what nobody can mend: %s", out)
	}
	u.nix.Run(u.t, "nix-store", "--delete", lost)
	u.nix.Run(u.t, "nix-store", "--verify", "--check-contents")
}

// spoil writes something else of the same length into a file of a store.
func (u *upkeep) spoil(file string) {
	u.t.Helper()
	text, err := os.ReadFile(file)
	if err == nil {
		err = os.Chmod(file, 0o644)
	}
	if err == nil {
		err = os.WriteFile(file, []byte(strings.Repeat("x", len(text))), 0o644)
	}
	if err == nil {
		err = os.Chmod(file, 0o444)
	}
	if err != nil {
		u.t.Fatal(err)
	}
}

func (u *upkeep) collects() {
	old, now := u.add("old", "old", false), u.add("now", "now", false)
	for _, p := range []string{old, now} {
		u.nix.Run(u.t, "nix-env", "--profile", "/nix/var/nix/profiles/p", "--set", p)
	}
	u.nix.Run(u.t, "nix-collect-garbage")
	u.nix.Run(u.t, "nix-store", "--check-validity", old, now)
	u.nix.Run(u.t, "nix-collect-garbage", "-d")
	u.nix.RunFails(u.t, "nix-store", "--check-validity", old)
	u.nix.Run(u.t, "nix-store", "--check-validity", now)

	for i := range 3 {
		u.add(fmt.Sprint("garbage-", i), strings.Repeat(fmt.Sprint(i), 100_000), false)
	}
	u.nix.Run(u.t, "nix", "store", "gc", "--max", "1000")
	left, err := filepath.Glob(u.path("upper/layer/*-garbage-*"))
	if err != nil || len(left) != 2 {
		u.t.Errorf("after a collection of a little there are %d of 3: %v", len(left), err)
	}
	u.nix.Run(u.t, "nix", "store", "gc")
	if left, _ := filepath.Glob(u.path("upper/layer/*-garbage-*")); len(left) != 0 {
		u.t.Errorf("there is still %q", left)
	}
}

// initialRoot tells whether this process may mount images.
func initialRoot() bool {
	initial, err := mount.InitialUserNamespace()
	return err == nil && initial && os.Geteuid() == 0
}
