package enter

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
)

// Commands here do not fork: a shell that waits for a child with vfork is not stopped before
// that has begun.

// A console is an interactive shell on a terminal, and somebody who types.
type console struct {
	t      *testing.T
	keys   *os.File
	output chan string
	seen   string // and not yet expected
}

func newConsole(t *testing.T) *console {
	t.Helper()
	bash := testenv.Tool(t, "bash")
	testenv.UserNS(t)
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(keys.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(keys.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	screen, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer screen.Close()
	cmd := exec.Command(bash, "--norc", "--noprofile", "--noediting", "-i")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = screen, screen, screen
	cmd.Dir = testenv.Scratch(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "PS1=$ ", "PS2=", "TERM=dumb", "self="+self, "HISTFILE=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &console{t: t, keys: keys, output: make(chan string, 1000)}
	go func() {
		defer close(c.output)
		buf := make([]byte, 4096)
		for {
			n, err := keys.Read(buf)
			if n > 0 {
				c.output <- string(buf[:n])
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		keys.Close() // which hangs up
		cmd.Process.Kill()
		cmd.Wait()
	})
	c.expect("$ ")
	c.enter("run() { " + roleEnv + "=own $self \"$@\"; }; export self; stty -echo")
	c.expect("$ ")
	return c
}

// enter types a line.
func (c *console) enter(line string) { c.press(line + "\n") }

func (c *console) press(keys string) {
	c.t.Helper()
	if _, err := c.keys.WriteString(keys); err != nil {
		c.t.Fatal(err)
	}
}

// expect waits for a text on the screen, and gives what came before it.
func (c *console) expect(text string) (before string) {
	c.t.Helper()
	deadline := time.After(time.Minute)
	for {
		if before, rest, ok := strings.Cut(c.seen, text); ok {
			c.seen = rest
			return before
		}
		select {
		case more, ok := <-c.output:
			if !ok {
				c.t.Fatalf("the terminal ended; want %q, have %q", text, c.seen)
			}
			c.seen += more
		case <-deadline:
			c.t.Fatalf("waited for %q, have %q", text, c.seen)
		}
	}
}

// The keyboard's signals reach the command once, and the shell sees what became of it.
func TestKeyboard(t *testing.T) {
	c := newConsole(t)
	c.enter(`run sh -c 'trap "echo inter""rupted" INT; echo rea""dy; while :; do if read line; then echo "got $line"; fi; test "$line" != end || break; done; echo en""ded'`)
	c.expect("ready")
	c.enter("one")
	c.expect("got one")
	c.press("\x03")
	c.expect("interrupted")
	c.enter("two")
	if before := c.expect("got two"); strings.Contains(before, "interrupted") {
		t.Error("Ctrl-C came twice")
	}
	c.enter("end")
	c.expect("ended")
	c.expect("$ ")
	c.enter(`run sh -c 'echo rea""dy; exec sleep 1000'; echo "status $?"`)
	c.expect("ready")
	c.press("\x03")
	c.expect("status 130")
	c.expect("$ ")
}

// Ctrl-Z stops the command and gives the terminal back; fg and bg let it go on.
func TestStopAndGoOn(t *testing.T) {
	c := newConsole(t)
	c.enter(`run sh -c 'echo rea""dy; read line; echo "got $line"; exit 5'`)
	c.expect("ready")
	c.press("\x1a")
	c.expect("Stopped")
	c.expect("$ ")
	c.enter("echo here $((6*7))")
	c.expect("here 42")
	c.enter("fg")
	c.enter("text")
	c.expect("got text")
	c.enter(`echo "status $?"`)
	c.expect("status 5")
	// In the background it stops when it wants to read.
	c.enter(`run sh -c 'read line; echo "got $line"' &`)
	c.enter(`until jobs >stopped; grep -q Stopped stopped; do sleep 0.1; done; echo it "stop""ped"`)
	c.expect("it stopped")
	c.enter("fg")
	c.enter("more")
	c.expect("got more")
	c.enter("echo and \"go\"\"ne\"")
	c.expect("and gone") // rather than stopped once more
}

// A program that stops itself stops what stands around it.
func TestCommandStopsItself(t *testing.T) {
	c := newConsole(t)
	c.enter(`run sh -c 'kill -STOP $$; echo con""tinued'`)
	c.expect("Stopped")
	c.enter("fg")
	c.expect("continued")
}

// An interactive shell inside has job control of its own.
func TestShellInside(t *testing.T) {
	c := newConsole(t)
	c.enter(`run bash --norc --noprofile --noediting -i`)
	c.expect("$ ")
	c.enter(`sh -c 'trap "echo go""es on" CONT; trap "echo inter""rupted; exit 3" INT; echo rea""dy; while :; do read line; done'`)
	c.expect("ready")
	c.press("\x1a")
	c.expect("Stopped")
	c.enter("fg")
	c.expect("goes on")
	c.press("\x03")
	c.expect("interrupted")
	c.expect("$ ")
	c.enter(`echo "inside $?"`)
	c.expect("inside 3")
	c.enter("suspend")
	c.expect("Stopped")
	c.enter("echo outs''ide")
	c.expect("outside")
	c.enter("fg")
	c.enter("echo insi''de again")
	c.expect("inside again")
	c.enter("exit 9")
	c.expect("exit")
	c.enter(`echo "status $?"`)
	c.expect("status 9")
}

// In a pipeline all have the terminal together.
func TestPipeline(t *testing.T) {
	c := newConsole(t)
	c.enter(`run sh -c 'echo from here' | sh -c 'cat; read line </dev/tty; echo "key""board: $line"'`)
	c.expect("from here")
	c.enter("typed")
	c.expect("keyboard: typed")
	// The function would be a shell that has the pipe, too.
	c.enter(roleEnv + `=own $self sh -c 'exec >&-; read line' | sh -c 'cat; echo en""ded'`)
	c.expect("ended")
	c.press("\x03")
	c.expect("$ ")
}
