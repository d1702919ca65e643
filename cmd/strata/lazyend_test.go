package main

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
)

// A mount that is to end ends, says so to whoever uses it still, and leaves nothing.
func TestLazyMountEndsThoughItIsUsed(t *testing.T) {
	testenv.Long(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	w := newLazyWorld(t, "gzip-1.12")
	gzip := w.object("gzip-1.12")
	const used = "still in use"
	for name, c := range map[string]struct {
		inside bool // it has its working directory there
		attr   unix.SysProcAttr
	}{
		"by a program":               {true, unix.SysProcAttr{}},
		"in another mount namespace": {false, unix.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}},
		"by nobody":                  {},
	} {
		at := w.path("mnt")
		p := w.mount(at)
		object := filepath.Join(at, gzip)
		w.same(at, gzip)
		holder := exec.Command("sh", "-c", `if "$2"; then cd "$1"; fi; echo held; read line; ls "$1"; echo ended`,
			"sh", object, map[bool]string{true: "true", false: "false"}[c.inside])
		holder.SysProcAttr = &c.attr
		var held *testenv.Process
		var release io.Writer
		if name != "by nobody" {
			in, err := holder.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			held = testenv.Start(t, holder)
			w.until("it is held", func() bool { return strings.Contains(held.Output(), "held") })
			defer in.Close()
			release = in
		}
		server := w.server()
		if err := p.Stop(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if told := strings.Contains(p.Output(), used); told != (held != nil) {
			t.Errorf("%s: it says %q", name, p.Output())
		}
		if entries, err := os.ReadDir(at); err != nil || len(entries) > 0 {
			t.Errorf("%s: it is still mounted: %v, %v", name, entries, err)
		}
		if unix.Kill(server, 0) == nil {
			t.Errorf("%s: process %d serves it still", name, server)
		}
		if left, _ := os.ReadDir(filepath.Join(w.path("run"), "lazy")); len(left) > 0 {
			t.Errorf("%s: %v is left", name, left)
		}
		if held == nil {
			continue
		}
		if _, err := release.Write([]byte("go on\n")); err != nil {
			t.Fatal(err)
		}
		<-held.Done() // nothing keeps it waiting
		if !strings.Contains(held.Output(), "ended") {
			t.Errorf("%s: %q", name, held.Output())
		}
	}
}

// On a disk that is full a mount has another server as on any other.
func TestLazyMountIsTakenOverOnAFullDisk(t *testing.T) {
	testenv.Long(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	w := newLazyWorld(t, "gzip-1.12")
	at := w.path("mnt")
	p := w.mount(at)
	gzip := w.object("gzip-1.12")
	w.same(at, gzip)
	first := w.server()
	// Where those are noted who use the cache there is no room for another one.
	users, err := filepath.Glob(w.path("cache/*/users"))
	if err != nil || len(users) != 1 {
		t.Fatalf("%q, %v", users, err)
	}
	if err := unix.Mount("full", users[0], "tmpfs", 0, "size=4k"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(users[0], unix.MNT_DETACH) }()
	if err := os.WriteFile(filepath.Join(users[0], "filler.socket"), make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(first, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "ls", filepath.Join(at, w.object("libc6-2.36"))).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w.same(at, w.objects...)
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}
