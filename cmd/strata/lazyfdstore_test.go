package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
)

// systemd is somebody who keeps descriptors as systemd does.
type systemd struct {
	t      *testing.T
	socket *net.UnixConn
	path   string
	stored map[string]*os.File
	said   []string
}

func newSystemd(t *testing.T) *systemd {
	t.Helper()
	s := &systemd{t: t, path: filepath.Join(t.TempDir(), "notify"), stored: map[string]*os.File{}}
	var err error
	if s.socket, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.path, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.socket.Close()
		for _, f := range s.stored {
			_ = f.Close()
		}
	})
	return s
}

// hear takes messages until one of them has a line.
func (s *systemd) hear(line string) {
	s.t.Helper()
	if err := s.socket.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		s.t.Fatal(err)
	}
	for {
		text, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
		n, rn, _, _, err := s.socket.ReadMsgUnix(text, rights)
		if err != nil {
			s.t.Fatal(err)
		}
		lines := strings.Split(string(text[:n]), "\n")
		s.said = append(s.said, lines...)
		s.take(lines, rights[:rn])
		for _, l := range lines {
			if l == line {
				return
			}
		}
	}
}

func (s *systemd) take(lines []string, rights []byte) {
	name := ""
	for _, l := range lines {
		if n, ok := strings.CutPrefix(l, "FDNAME="); ok {
			name = n
		}
	}
	for _, l := range lines {
		if l == "FDSTOREREMOVE=1" {
			_ = s.stored[name].Close()
			delete(s.stored, name)
		}
	}
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) == 0 {
		return
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		s.t.Fatal(err)
	}
	s.stored[name] = os.NewFile(uintptr(fds[0]), name)
}

// start starts a service, with what is stored.
func (s *systemd) start(cmd *exec.Cmd) *testenv.Process {
	s.t.Helper()
	var names []string
	for name, f := range s.stored {
		names, cmd.ExtraFiles = append(names, name), append(cmd.ExtraFiles, f)
	}
	env := append(cmd.Env, "NOTIFY_SOCKET="+s.path, "FDSTORE=16")
	// The number of the process is known only to itself.
	script := `exec "$0" "$@"`
	if len(names) > 0 {
		script = `LISTEN_PID=$$ LISTEN_FDS=` + strconv.Itoa(len(names)) + ` LISTEN_FDNAMES=` + strings.Join(names, ":") + ` exec "$0" "$@"`
	}
	wrapped := exec.Command("sh", append([]string{"-c", script}, cmd.Args...)...)
	wrapped.Env, wrapped.ExtraFiles = env, cmd.ExtraFiles
	return testenv.Start(s.t, wrapped)
}

func ended(p *testenv.Process) bool {
	select {
	case <-p.Done():
		return true
	default:
		return false
	}
}

// A service is restarted while a program has a file of the mount open and another one waits for an answer.
func TestLazyMountOutlivesARestart(t *testing.T) {
	testenv.Long(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	w := newLazyWorld(t, "gzip-1.12", "sed-4.9-1")
	at := w.path("mnt")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	s := newSystemd(t)
	up := func() *testenv.Process {
		t.Helper()
		p := s.start(w.command("lazy", "mount", "--cache", w.path("cache"), w.uri(), at))
		s.hear("READY=1")
		return p
	}
	first := up()
	if len(s.stored) != 1 {
		t.Fatalf("%d descriptors are stored, of %q", len(s.stored), s.said)
	}
	gzip := w.object("gzip-1.12")
	out, err := exec.Command("sh", "-c", `cd "$1" && exec 3<bin/gzip && head -c 4 <&3 | tail -c 3`, "sh", filepath.Join(at, gzip)).Output()
	if err != nil || string(out) != "ELF" {
		t.Errorf("%q, %v", out, err)
	}
	holder := exec.Command("sh", "-c", `cd "$1" && exec 3<bin/gzip && echo open && read line && head -c 4 <&3 | tail -c 3 && cmp bin/gzip "$2"/bin/gzip && echo same`, "sh", filepath.Join(at, gzip), filepath.Join(w.corpus, gzip))
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	held := testenv.Start(t, holder)
	w.until("the file is open", func() bool { return strings.Contains(held.Output(), "open") })
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	waiting := testenv.Start(t, exec.Command("sh", "-c", `ls "$1"/bin >/dev/null && echo listed`, "sh", filepath.Join(at, w.object("sed-4.9-1"))))
	w.run("lazy", "status") // takes nothing away
	second := up()
	w.until("the program goes on that waited", func() bool { return ended(waiting) })
	if !strings.Contains(waiting.Output(), "listed") {
		t.Errorf("%q", waiting.Output())
	}
	if _, err := in.Write([]byte("go on\n")); err != nil {
		t.Fatal(err)
	}
	w.until("the program goes on that has a file open", func() bool { return ended(held) })
	if !strings.Contains(held.Output(), "ELF") || !strings.Contains(held.Output(), "same") {
		t.Errorf("%q", held.Output())
	}
	w.same(at, w.objects...)
	// Taken away from outside, it ends, and takes its descriptor back.
	if err := unix.Unmount(at, 0); err != nil {
		t.Fatal(err)
	}
	s.hear("FDSTOREREMOVE=1")
	w.until("it ends", func() bool { return ended(second) })
	if states, _ := os.ReadDir(filepath.Join(w.path("run"), "lazy")); len(states) != 0 {
		t.Errorf("%v are left", states)
	}
}

// A whole stack is restarted, and crashes, with all its processes, while a program waits for a lazy lower and another one has a
// file of it open.
func TestLazyLowerOutlivesItsService(t *testing.T) {
	testenv.Long(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	w := newLazyWorld(t, "gzip-1.12", "sed-4.9-1", "bash-5.2.15")
	file := w.path("strata.toml")
	text := fmt.Sprintf("upper.dir = %q\nroot = %q\n[[lower]]\nlazy = [%q]\ncache = \"cache\"\nname = \"l\"\n", w.path("up"), w.path("root"), w.uri())
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	at, gzip := w.path("root/nix/store"), w.object("gzip-1.12")
	s := newSystemd(t)
	up := func() *testenv.Process {
		t.Helper()
		p := s.start(w.command("up", "-c", file))
		s.hear("READY=1")
		if len(s.stored) != 1 {
			t.Fatalf("%d descriptors are stored, of %q", len(s.stored), s.said)
		}
		return p
	}
	// What systemd kills of a service whose main process has ended.
	rest := func() {
		t.Helper()
		var all []lazyStatus
		if err := json.Unmarshal([]byte(w.run("lazy", "status", "--json")), &all); err != nil || len(all) != 1 {
			t.Fatalf("%v, %+v", err, all)
		}
		pids := []int{all[0].PID, w.server()}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		w.until("they have ended", func() bool {
			return !slices.ContainsFunc(pids, func(pid int) bool { return unix.Kill(pid, 0) == nil })
		})
	}
	p := up()
	holder := exec.Command("sh", "-c", `cd "$1" && exec 3<bin/gzip && echo open && while read line; do head -c 4 <&3 | tail -c 3; cmp bin/gzip "$2"/bin/gzip && echo same; done`,
		"sh", filepath.Join(at, gzip), filepath.Join(w.corpus, gzip))
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	held := testenv.Start(t, holder)
	w.until("the file is open", func() bool { return strings.Contains(held.Output(), "open") })
	for n, how := range []string{"crash", "restart"} {
		if how == "crash" {
			p.Kill()
		} else {
			_ = p.Stop() // it says what is in use, and stays
		}
		rest()
		waiting := testenv.Start(t, exec.Command("sh", "-c", `ls "$1"/bin >/dev/null && echo listed`, "sh", filepath.Join(at, w.object([]string{"sed-4.9-1", "bash-5.2.15"}[n]))))
		p = up()
		if !strings.Contains(p.Output(), "taking over") {
			t.Errorf("after a %s nothing was taken over", how)
		}
		w.until("the program goes on that waited", func() bool { return ended(waiting) })
		if !strings.Contains(waiting.Output(), "listed") {
			t.Errorf("after a %s: %q", how, waiting.Output())
		}
		if _, err := in.Write([]byte("go on\n")); err != nil {
			t.Fatal(err)
		}
		w.until("the program goes on that has a file open", func() bool { return strings.Count(held.Output(), "same") == n+1 })
	}
	w.same(at, w.objects...)
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	w.until("the program ends", func() bool { return ended(held) })
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	s.hear("FDSTOREREMOVE=1")
	if len(s.stored) != 0 {
		t.Errorf("%d descriptors stay stored", len(s.stored))
	}
	w.until("those who served it have ended", func() bool { return strings.TrimSpace(w.run("lazy", "status", "--json")) == "[]" })
}
