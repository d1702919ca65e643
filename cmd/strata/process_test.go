package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/wire"
	"github.com/strata-nix/strata/worker"
)

// The tests of this file run the built binary as a process of its own.

// place is a directory with an empty store in it, and nothing of the machine's
// configuration.
type place struct {
	t           *testing.T
	dir, socket string
	bin         string
}

func newPlace(t *testing.T) *place {
	t.Helper()
	dir := testenv.Scratch(t)
	return &place{t: t, dir: dir, socket: filepath.Join(dir, "socket"), bin: testenv.Strata(t)}
}

func (p *place) uri() string { return "local?root=" + filepath.Join(p.dir, "root") }

// command prepares the binary, with its environment.
func (p *place) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(p.t.Context(), p.bin, args...)
	cmd.Dir = p.dir
	cmd.Env = []string{"HOME=" + p.dir, "NIX_CONF_DIR=" + p.dir, "NIX_REMOTE=" + p.uri(), "PATH=" + os.Getenv("PATH")}
	return cmd
}

// daemon starts a daemon and waits until it answers.
func (p *place) daemon(args ...string) *testenv.Process {
	p.t.Helper()
	d := testenv.Start(p.t, p.command(append([]string{"daemon", "--socket", p.socket}, args...)...))
	d.WaitSocket(p.socket)
	return d
}

func (p *place) client() *worker.Client {
	p.t.Helper()
	c, err := worker.NewClient(p.t.Context(), worker.DialUnix(p.socket), worker.ClientOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = c.Close() })
	return c
}

// text is a text object on its way into a store.
func text(name string, contents io.Reader) store.Dump {
	return store.Dump{Name: name, Spec: storepath.Spec{Method: storepath.Text, Algorithm: nixhash.SHA256}, Contents: contents}
}

func (p *place) mustEnd(d *testenv.Process) {
	p.t.Helper()
	<-d.Done()
	if err := d.Stop(); err != nil {
		p.t.Errorf("the daemon ended with %v:\n%s", err, d.Output())
	}
	if _, err := os.Lstat(p.socket); !errors.Is(err, os.ErrNotExist) {
		p.t.Errorf("its socket is still there: %v", err)
	}
}

func TestDaemonEndsOnSignals(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		p := newPlace(t)
		d := p.daemon()
		p.client() // idle
		if err := d.Cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		p.mustEnd(d)
	}
}

// slowUpload is an upload that waits in the middle. The returned functions let it
// go on, and tell how it ended.
func (p *place) slowUpload(c *worker.Client) (goOn func(), ended <-chan error) {
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := c.AddDump(context.WithoutCancel(p.t.Context()), text("slow", pr), store.AddOptions{})
		_ = pr.CloseWithError(err)
		done <- err
	}()
	// More than any buffer on the way holds: when it is written, the daemon is at it.
	if _, err := pw.Write(bytes.Repeat([]byte("x"), 8<<20)); err != nil {
		p.t.Error(err)
	}
	return func() { _ = pw.Close() }, done
}

func TestDaemonLetsAnUploadFinish(t *testing.T) {
	p := newPlace(t)
	d := p.daemon("--drain-timeout", "1h")
	goOn, ended := p.slowUpload(p.client())
	if err := d.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for exists(p.socket) { //nolint:revive // it is removed when the draining begins
	}
	goOn()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	p.mustEnd(d)
	if out, err := p.command("info", "--all", "-s").Output(); err != nil || strings.Count(string(out), "-slow\t") != 1 {
		t.Errorf("%v: %s", err, out)
	}
}

func TestDaemonCutsAnUploadThatDoesNotEnd(t *testing.T) {
	p := newPlace(t)
	d := p.daemon("--drain-timeout", "1ms")
	goOn, ended := p.slowUpload(p.client())
	if err := d.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.mustEnd(d)
	goOn()
	if err := <-ended; err == nil {
		t.Error("the upload succeeded")
	}
	if out, err := p.command("info", "--all", "--json").Output(); err != nil || string(out) != "{}\n" {
		t.Errorf("%v: %s", err, out)
	}
}

func TestDaemonAfterACrash(t *testing.T) {
	p := newPlace(t)
	d := p.daemon()
	goOn, ended := p.slowUpload(p.client())
	d.Kill()
	goOn()
	if err := <-ended; err == nil {
		t.Error("the upload succeeded")
	}
	if !exists(p.socket) {
		t.Fatal("no stale socket")
	}
	p.daemon()
	c := p.client()
	if _, err := c.AddDump(t.Context(), text("slow", strings.NewReader("now")), store.AddOptions{}); err != nil {
		t.Error(err)
	}
}

func TestTwoHundredConnections(t *testing.T) {
	const n = 200
	p := newPlace(t)
	p.daemon()
	var connected, done sync.WaitGroup
	connected.Add(n)
	errs := make(chan error, n)
	for i := range n {
		done.Go(func() {
			errs <- func() error {
				c, err := worker.NewClient(t.Context(), worker.DialUnix(p.socket), worker.ClientOptions{MaxConnections: 1})
				connected.Done()
				if err != nil {
					return err
				}
				defer c.Close()
				connected.Wait() // all of them at once
				info, err := c.AddDump(t.Context(), text("n"+strconv.Itoa(i%50), strings.NewReader(strconv.Itoa(i))), store.AddOptions{})
				if err != nil {
					return err
				}
				valid, err := c.ValidPaths(t.Context(), []storepath.Path{info.Path})
				if err == nil && len(valid) != 1 {
					err = fmt.Errorf("%s is not valid", info.Path)
				}
				return err
			}()
		})
	}
	done.Wait()
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestDaemonHoldsNothingOpenInItsStore(t *testing.T) {
	p := newPlace(t)
	d := p.daemon()
	c := p.client()
	info, err := c.AddDump(t.Context(), text("x", strings.NewReader("x")), store.AddOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.NarFromPath(t.Context(), info.Path, io.Discard); err != nil {
		t.Fatal(err)
	}
	proc := filepath.Join("/proc", strconv.Itoa(d.Cmd.Process.Pid))
	if cwd, err := os.Readlink(filepath.Join(proc, "cwd")); cwd != "/" {
		t.Errorf("its working directory is %q, %v", cwd, err)
	}
	fds, err := filepath.Glob(filepath.Join(proc, "fd", "*"))
	if err != nil || len(fds) == 0 {
		t.Fatalf("%q, %v", fds, err)
	}
	for _, fd := range fds {
		target, _ := os.Readlink(fd) // closed meanwhile
		if strings.HasPrefix(target, filepath.Join(p.dir, "root/nix/store")) {
			t.Errorf("it has %q open", target)
		}
	}
}

func TestSocketActivation(t *testing.T) {
	p := newPlace(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := p.command()
	cmd.Path = testenv.Tool(t, "sh")
	cmd.Args = []string{"sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" daemon`, p.bin}
	cmd.ExtraFiles = []*os.File{file}
	d := testenv.Start(t, cmd)
	if trust, err := p.client().Trust(t.Context()); err != nil || trust == store.TrustUnknown {
		t.Errorf("%v, %v", trust, err)
	}
	if err := d.Stop(); err != nil {
		t.Errorf("%v:\n%s", err, d.Output())
	}
	if !exists(p.socket) {
		t.Error("it removed the socket, which is not its own")
	}
}

func TestDaemonOnStandardInput(t *testing.T) {
	for flag, want := range map[string]store.Trust{"--process-ops": store.Trusted, "--force-untrusted": store.NotTrusted} {
		p := newPlace(t)
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		theirs, ours := os.NewFile(uintptr(fds[0]), "theirs"), os.NewFile(uintptr(fds[1]), "ours")
		cmd := p.command("--stdio", flag)
		cmd.Args[0] = "nix-daemon" // as ssh-ng:// stores call it
		cmd.Stdin, cmd.Stdout = theirs, theirs
		d := testenv.Start(t, cmd)
		_ = theirs.Close()
		c, err := worker.NewClient(t.Context(), func(context.Context) (net.Conn, error) { return net.FileConn(ours) }, worker.ClientOptions{MaxConnections: 1})
		_ = ours.Close()
		if err != nil {
			t.Fatal(err)
		}
		if trust, err := c.Trust(t.Context()); trust != want || err != nil {
			t.Errorf("%s: %v, %v", flag, trust, err)
		}
		if _, err := c.AddDump(t.Context(), text("x", strings.NewReader("x")), store.AddOptions{}); err != nil {
			t.Error(err)
		}
		_ = c.Close()
		<-d.Done()
		if err := d.Stop(); err != nil {
			t.Errorf("%v:\n%s", err, d.Output())
		}
	}
}

func TestAClosedOutputIsNoError(t *testing.T) {
	p := newPlace(t)
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = pr.Close()
	cmd := p.command("help")
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = pw, &stderr
	err = cmd.Run()
	_ = pw.Close()
	if cmd.ProcessState.ExitCode() != int(exitPipe) || stderr.Len() > 0 {
		t.Errorf("%v, %q", err, stderr.String())
	}
}

func TestCtrlCEndsACommandThatWaitsForInput(t *testing.T) {
	// Each input goes on for longer than what is written of it.
	var archive bytes.Buffer
	w := wire.NewWriter(&archive)
	for _, s := range []string{"nix-archive-1", "(", "type", "regular", "contents"} {
		w.Text(s)
	}
	w.Uint64(1 << 40)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 4<<20) // more than the buffers of pipes hold
	const line = "/nix/store/00000000000000000000000000000000-x\nba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n1\n\n1000000\n"
	inputs := map[string][]byte{
		"import":      slices.Concat([]byte{1, 0, 0, 0, 0, 0, 0, 0}, archive.Bytes(), zeros),
		"restore out": slices.Concat(archive.Bytes(), zeros),
		"load-db":     []byte(line + strings.Repeat("/nix/store/00000000000000000000000000000000-x\n", 100_000)),
	}
	for args, input := range inputs {
		for sig, want := range map[syscall.Signal]exitCode{syscall.SIGINT: exitInterrupted, syscall.SIGTERM: exitTerminated} {
			p := newPlace(t)
			pr, pw, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			cmd := p.command(strings.Fields(args)...)
			cmd.Stdin = pr
			d := testenv.Start(t, cmd)
			_ = pr.Close()
			if _, err := pw.Write(input); err != nil {
				t.Fatalf("%s: %v\n%s", args, err, d.Output())
			}
			if err := d.Cmd.Process.Signal(sig); err != nil {
				t.Error(err)
			}
			<-d.Done()
			_ = pw.Close()
			if code := d.Cmd.ProcessState.ExitCode(); code != int(want) {
				t.Errorf("%s: exit status %d, want %d:\n%s", args, code, want, d.Output())
			}
			left, err := filepath.Glob(filepath.Join(p.dir, "*out*"))
			hidden, _ := filepath.Glob(filepath.Join(p.dir, ".strata*"))
			if err != nil || len(left)+len(hidden) > 0 {
				t.Errorf("%s left %q %q, %v", args, left, hidden, err)
			}
		}
	}
}
