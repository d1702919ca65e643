package daemon_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/strata-nix/strata/daemon"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store/storetest"
)

// The end must come within ten seconds of SIGTERM, also for whoever does not hear
// that his time is over.
func TestDrainIsShortEnough(t *testing.T) {
	if daemon.DefaultDrainTimeout > 8*time.Second {
		t.Error("no time is left to cancel operations and to close the store")
	}
}

// term asks a process to end.
func term(t *testing.T, p *testenv.Process) {
	t.Helper()
	if err := p.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

// closed waits for the daemon to close a connection, and fails if it says
// anything before.
func closed(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := c.Read(make([]byte, 100))
	if n > 0 || !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("an idle connection got %d bytes, %v", n, err)
	}
}

func TestTermLetsAnUploadFinish(t *testing.T) {
	r := newRig(t, testenv.Scratch(t))
	r.args = append(r.args, "--force-trusted", "--drain-timeout", "1h")
	r.start()
	big, late := file(t, "big", 4<<20), file(t, "late", 100)
	g := gated(big, 3<<20)
	c := r.client()
	silent, idle := r.dial(), r.greet()
	if idle.asks(big) {
		t.Error("valid too early")
	}
	done := make(chan error, 1)
	go func() { done <- c.Add(t.Context(), big.Info, g, unsigned) }()
	r.unpacking(1 << 20)
	term(t, r.proc)
	closed(t, silent)
	closed(t, idle)
	if _, err := os.Lstat(r.socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	close(g.open)
	if err := <-done; err != nil {
		t.Errorf("the upload that was under way: %v", err)
	}
	ended(t, r.proc)
	if err := r.proc.Stop(); err != nil {
		t.Errorf("the daemon ended with %v", err)
	}
	if err := c.Add(t.Context(), late.Info, late.Reader(), unsigned); err == nil {
		t.Error("a daemon that has ended took one more")
	}
	r.holds(big)
	if all := stockVerify(t, r.root); len(all) != 1 {
		t.Errorf("valid: %q", all)
	}
}

func TestTermCutsWhatHangs(t *testing.T) {
	r := newRig(t, testenv.Scratch(t))
	r.args = append(r.args, "--force-trusted", "--drain-timeout", "50ms")
	r.start()
	small, big := file(t, "small", 1000), file(t, "big", 8<<20)
	c := r.client()
	r.add(c, small, big)

	// One hangs in the middle of an upload, one does not read what it asked for, one
	// waits for a lock, one has sent half a request.
	other := file(t, "other", 4<<20)
	g := gated(other, 3<<20)
	uploaded, waiting := make(chan error, 1), make(chan error, 1)
	uploader, waiter := r.client(), r.client()
	go func() { uploaded <- uploader.Add(t.Context(), other.Info, g, unsigned) }()
	r.unpacking(1 << 20)
	deaf := r.greet()
	deaf.Uint64(38) // NarFromPath
	deaf.Text(nixDir.Print(big.Path()))
	deaf.flush()
	go func() { waiting <- waiter.Add(t.Context(), other.Info, other.Reader(), unsigned) }()
	half := r.greet()
	half.Uint64(opAddTextToStore)
	half.Text("half")
	half.Uint64(1 << 20)
	half.flush()
	if deaf.in.Uint64() != msgLast {
		t.Error("the NAR does not begin")
	}

	term(t, r.proc)
	ended(t, r.proc)
	if err := r.proc.Stop(); err != nil {
		t.Errorf("the daemon ended with %v", err)
	}
	close(g.open)
	if err := <-uploaded; err == nil {
		t.Error("the upload that hung succeeded")
	}
	if err := <-waiting; err == nil {
		t.Error("the upload that waited succeeded")
	}
	r.holds(small, big)
	r.afterCrash(other)
}

// A second daemon takes the socket over. The first one goes on with what it has,
// and leaves the other's socket alone when it ends.
func TestSecondDaemonTakesOver(t *testing.T) {
	r := startRig(t, testenv.Scratch(t))
	first := r.proc
	before := r.greet()
	big, small := file(t, "big", 4<<20), file(t, "small", 100)
	g := gated(big, 3<<20)
	c := r.client()
	done := make(chan error, 1)
	go func() { done <- c.Add(t.Context(), big.Info, g, unsigned) }()
	r.unpacking(1 << 20)

	made, err := os.Stat(r.socket)
	if err != nil {
		t.Fatal(err)
	}
	second := testenv.Start(t, strataCommand(t, append([]string{"daemon", "--socket", r.socket}, r.args...)...))
	eventually(t, "the second listens", func() bool {
		now, err := os.Stat(r.socket)
		return err == nil && !os.SameFile(made, now)
	})
	// The upload of the first survives that the second begins, which clears up.
	r.add(r.client(), small)
	if before.asks(big) || !before.asks(small) {
		t.Error("the first does not see what the second did")
	}
	term(t, first)
	closed(t, before)
	close(g.open)
	if err := <-done; err != nil {
		t.Errorf("the upload to the first: %v", err)
	}
	ended(t, first)
	if !reachable(r.socket) {
		t.Error("the first took the second's socket away")
	}
	r.valid(r.client(), true, big, small)
	if err := second.Stop(); err != nil {
		t.Error(err)
	}
	if reachable(r.socket) {
		t.Error("still reachable")
	}
	stockVerify(t, r.root)
}

// Uploads that were answered are there after a kill: many at once, ended by
// SIGTERM at some moment.
func TestTermLosesNothingThatWasAnswered(t *testing.T) {
	r := startRig(t, testenv.Scratch(t))
	const clients = 8
	type answer struct{ added []storetest.Object }
	answers := make(chan answer, clients)
	for n := range clients {
		c := r.client()
		go func() {
			var a answer
			for i := 0; ; i++ {
				o := file(t, fmt.Sprintf("o%d-%d", n, i), 2000)
				if c.Add(t.Context(), o.Info, o.Reader(), unsigned) != nil {
					answers <- a
					return
				}
				a.added = append(a.added, o)
			}
		}()
	}
	eventually(t, "some objects are there", func() bool { return len(r.entries()) > 50 })
	if err := r.proc.Stop(); err != nil {
		t.Errorf("the daemon ended with %v", err)
	}
	r.start()
	c := r.client()
	total := 0
	for range clients {
		a := <-answers
		r.valid(c, true, a.added...)
		total += len(a.added)
	}
	// A client that was told may lag behind one that was cut, but not by more.
	if all := stockVerify(t, r.root); len(all) < total || len(all) > total+clients {
		t.Errorf("%d were answered, %d are valid", total, len(all))
	}
	if names := r.entries(); len(names) > total+clients {
		t.Errorf("%d were answered, %d are there", total, len(names))
	}
}

// Nothing of the daemon's is left to whoever it starts or is started by: a client
// that closed its connection in the middle of an answer ends the operation.
func TestClientThatStopsReadingHoldsNothing(t *testing.T) {
	r := startRig(t, testenv.Scratch(t))
	big := file(t, "big", 8<<20)
	c := r.client()
	r.add(c, big)
	for range 10 {
		deaf := r.greet()
		deaf.Uint64(38)
		deaf.Text(nixDir.Print(big.Path()))
		deaf.flush()
		if deaf.in.Uint64() != msgLast {
			t.Fatal("the NAR does not begin")
		}
		deaf.Close()
	}
	eventually(t, "nothing of the store is open", func() bool { return len(openBelow(t, r.proc, r.store())) == 0 })
	var got bytes.Buffer
	if err := c.NarFromPath(t.Context(), big.Path(), &got); err != nil || got.Len() != len(big.NAR) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
}

// openBelow lists what a process has open below a directory.
func openBelow(t *testing.T, p *testenv.Process, dir string) (open []string) {
	t.Helper()
	fds := fmt.Sprintf("/proc/%d/fd", p.Cmd.Process.Pid)
	for _, fd := range listing(t, fds) {
		if target, err := os.Readlink(fds + "/" + fd); err == nil && len(target) > len(dir) && target[:len(dir)] == dir {
			open = append(open, target)
		}
	}
	return open
}
