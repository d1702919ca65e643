package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

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
