package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// order is what the keeper is told while the builder runs. The end of the orders
// is one to kill.
type order struct{ Show Mount }

// event is what the keeper tells.
type event struct {
	Started bool    `json:",omitempty"` // the builder has been executed
	Failed  *report `json:",omitempty"` // it will not be
	Shown   *report `json:",omitempty"` // an order is carried out; or not, if there is a Step
	Exited  *ending `json:",omitempty"` // the builder has ended; the connection ends when all that is left has been killed
}

type ending struct {
	Status       syscall.WaitStatus
	User, System time.Duration
}

// errKilled says that nobody wants a builder any more.
var errKilled = errors.New("killed before the builder was started")

// keeper is the process between who wants a build and the builder.
type keeper struct {
	s      keeperSpec
	events *json.Encoder
	orders chan order
	kill   chan struct{} // closed when everything is to end
	root   *root         // nil without isolation
	late   []Mount
}

// keep is the keeper's life.
func keep() {
	for fd := range keeperFiles {
		unix.CloseOnExec(keeperConn + fd)
	}
	conn := os.NewFile(keeperConn, "connection")
	k := &keeper{events: json.NewEncoder(conn), orders: make(chan order), kill: make(chan struct{})}
	go k.listen(conn)
	end, err := k.run()
	if err != nil {
		k.tell(event{Failed: newReport("start the builder", err)})
	} else {
		k.tell(event{Exited: end})
	}
	k.killAll()
}

// listen reads orders. Their end may be that of who gives them.
func (k *keeper) listen(conn *os.File) {
	defer close(k.kill)
	for in := json.NewDecoder(conn); ; {
		var o order
		if in.Decode(&o) != nil {
			return
		}
		k.orders <- o
	}
}

// tell does not fail: who does not listen any more will not be told.
func (k *keeper) tell(e event) { _ = k.events.Encode(e) }

func (k *keeper) run() (*ending, error) {
	if err := unsealed(keeperSpecFD, &k.s); err != nil {
		return nil, fmt.Errorf("read what to do: %w", err)
	}
	if err := k.prepare(); err != nil {
		return nil, err
	}
	builder, err := k.launch()
	if err != nil {
		return nil, err
	}
	k.tell(event{Started: true})
	return k.attend(builder)
}

// prepare makes the surroundings.
func (k *keeper) prepare() error {
	// Orphans of the builder come to the keeper, and so does bwrap's child.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return &SetupError{Step: "become a subreaper", Err: err}
	}
	unix.Umask(0o022)
	if err := k.dropGroups(); err != nil {
		return &SetupError{Step: "drop supplementary groups", Err: err}
	}
	if k.s.Isolation == nil {
		return nil
	}
	if err := unix.Setdomainname([]byte("(none)")); err != nil {
		return &SetupError{Step: "set the domain name", Err: err}
	}
	var err error
	k.root, k.late, err = newRoot(&k.s)
	return err
}

// dropGroups takes the groups of who runs this program from the builder. An
// ordinary user cannot give up his.
func (k *keeper) dropGroups() error {
	if groups, err := unix.Getgroups(); err == nil && len(groups) == 0 {
		return nil
	}
	err := setThreadGroups(nil) // the thread from which the builder is started
	switch {
	case err == nil, !k.s.Privileged, k.s.KeepGroups && errors.Is(err, unix.EPERM):
		return nil
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w; require-drop-supplementary-groups = false does without", err)
	}
	return err
}

// attend waits for the end of the builder, and does as it is told meanwhile.
func (k *keeper) attend(builder int) (*ending, error) {
	died, reaped := make(chan error), make(chan struct{})
	go func() {
		for {
			died <- awaitDeath()
			<-reaped
		}
	}()
	kill := k.kill
	for {
		select {
		case o := <-k.orders:
			k.tell(event{Shown: k.show(o.Show)})
		case <-kill:
			kill = nil
			k.killBuilder(builder)
		case err := <-died:
			if err != nil {
				return nil, fmt.Errorf("wait for the builder: %w", err)
			}
			if end := reap(builder); end != nil {
				return end, nil
			}
			reaped <- struct{}{}
		}
	}
}

func (k *keeper) show(m Mount) *report {
	if k.root == nil {
		return newReport("show "+m.Target, errors.New("there is no sandbox"))
	}
	if err := k.root.show(m); err != nil {
		return newReport("show "+m.Target, err)
	}
	return new(report)
}

// awaitDeath waits until a child can be reaped, and leaves it. So the number of a
// child that has not been reaped is still its own, for who wants to kill it.
func awaitDeath() error {
	for {
		err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// reap takes all children that have died. It returns how the builder ended, if he
// is among them.
func reap(builder int) *ending {
	for {
		var status syscall.WaitStatus
		var usage syscall.Rusage
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, &usage)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || pid <= 0:
			return nil
		case pid == builder:
			return &ending{status, time.Duration(usage.Utime.Nano()), time.Duration(usage.Stime.Nano())}
		}
	}
}

// killBuilder kills the builder, and without a sandbox those who would go on
// making children.
func (k *keeper) killBuilder(pid int) {
	k.killBuildUser()
	_ = unix.Kill(pid, unix.SIGKILL) // a child that has not been reaped: it is him
}

// killBuildUser kills everything of a build user who is not kept together by a
// pid namespace.
func (k *keeper) killBuildUser() {
	if k.root == nil && k.s.HasUser && k.s.Privileged {
		if err := killUser(k.s.UID); err != nil {
			fmt.Fprintf(os.Stderr, "strata: %v\n", err) // killAll goes on
		}
	}
}

// killAll kills all descendants: again and again the children, to whom those are
// added whose parents died. Only children are killed because nobody else can reap
// them: the number of a grandchild may be somebody else's by now. With a build
// user all of them die at once, in a sandbox by the kernel with the builder.
func (k *keeper) killAll() {
	for {
		k.killBuildUser()
		pids := children()
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		// Only those who are sure to die are waited for.
		for _, pid := range pids {
			for errors.Is(waitFor(pid), unix.EINTR) {
			}
		}
		if len(pids) == 0 && errors.Is(unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil), unix.ECHILD) {
			return
		}
	}
}

func waitFor(pid int) error {
	_, err := syscall.Wait4(pid, nil, 0, nil)
	return err
}

// pipe makes a pipe whose ends are closed when programs are executed.
func pipe() (r, w *os.File, err error) {
	if r, w, err = os.Pipe(); err != nil {
		return nil, nil, fmt.Errorf("pipe: %w", err)
	}
	return r, w, nil
}

// parseWord understands a line of entry, or the end of its pipe.
func parseWord(line string) (ready bool, failed *report) {
	if line == readyLine {
		return true, nil
	}
	failed = new(report)
	if err := json.Unmarshal([]byte(strings.TrimSpace(line)), failed); err != nil {
		failed = newReport("start the builder", fmt.Errorf("it said %q", line))
	}
	return false, failed
}
