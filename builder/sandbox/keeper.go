package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// order is what the keeper is told while the builder runs, one on a line. The end
// of the orders is one to kill.
type order struct{ Source, Target []byte } // show it; of any bytes, which strings in JSON are not

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

// keeper is the process between who wants a build and the builder. It has one
// thread to do its work and waits in one place, [keeper.poll]: a second thread
// would cost a tenth of the time that it takes to start a builder.
type keeper struct {
	s      keeperSpec
	killed bool   // the orders have ended
	orders []byte // what has come of those that are not complete
	root   *root  // nil without isolation
	late   []Mount
}

// keep is the keeper's life.
func keep() {
	for fd := range keeperFiles {
		unix.CloseOnExec(keeperConn + fd)
	}
	k := new(keeper)
	end, err := k.run()
	if err != nil {
		k.tell(event{Failed: newReport("start the builder", err)})
	} else {
		k.tell(event{Exited: end})
	}
	k.killAll()
}

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

// tell does not fail: who does not listen any more will not be told.
func (k *keeper) tell(e event) {
	b, err := json.Marshal(e)
	for err == nil && len(b) > 0 {
		var n int
		n, err = unix.Write(keeperConn, b)
		b = b[max(n, 0):]
		if errors.Is(err, unix.EINTR) {
			err = nil
		}
	}
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

// orphanPatience is how long, in milliseconds, dead orphans may wait to be reaped.
const orphanPatience = 1000

// attend waits for the end of the builder, and does as it is told meanwhile.
func (k *keeper) attend(builder int) (*ending, error) {
	fd, err := unix.PidfdOpen(builder, 0)
	if err != nil {
		return nil, fmt.Errorf("watch the builder: %w", err)
	}
	timeout := orphanPatience
	if k.root != nil {
		timeout = -1 // orphans stay in the sandbox
	}
	killed := false
	for {
		if k.killed && !killed {
			killed = true
			k.killBuildUser()
			_ = unix.Kill(builder, unix.SIGKILL) // a child that has not been reaped: it is him
		}
		if err := k.obey(); err != nil {
			return nil, err
		}
		if _, err := k.poll(fd, timeout); err != nil && !errors.Is(err, errKilled) {
			return nil, fmt.Errorf("wait for the builder: %w", err)
		}
		if end := reap(builder); end != nil {
			return end, nil
		}
	}
}

// poll waits until there is something to read from fd or, unless timeout is
// negative, until it is over, in milliseconds. Meanwhile it reads orders; when they
// end, the error is errKilled, once.
func (k *keeper) poll(fd, timeout int) (ready bool, err error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: keeperConn, Events: unix.POLLIN}}
	if k.killed {
		fds = fds[:1]
	}
	n, err := unix.Poll(fds, timeout)
	switch {
	case errors.Is(err, unix.EINTR):
		return false, nil
	case err != nil:
		return false, err
	case n == 0:
		return false, nil
	}
	if len(fds) > 1 && fds[1].Revents != 0 && !k.readOrders() {
		k.killed = true
		return false, errKilled
	}
	return fds[0].Revents != 0, nil
}

// readOrders reports whether the orders go on.
func (k *keeper) readOrders() bool {
	buf := make([]byte, 16<<10)
	n, err := unix.Read(keeperConn, buf)
	if n > 0 {
		k.orders = append(k.orders, buf[:n]...)
		return true
	}
	return errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN)
}

// obey carries out the orders that are complete.
func (k *keeper) obey() error {
	for {
		line, rest, ok := bytes.Cut(k.orders, []byte("\n"))
		if !ok {
			return nil
		}
		k.orders = rest
		var o order
		if err := json.Unmarshal(line, &o); err != nil {
			return fmt.Errorf("understand an order: %w", err)
		}
		k.tell(event{Shown: k.show(Mount{Kind: ReadOnly, Source: string(o.Source), Target: string(o.Target)})})
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

// reap takes all children that have died. It returns how the builder ended, if he
// is among them. Nobody else reaps, so the number of a child that was not reaped is
// still its own.
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

// killBuildUser kills everything of a build user who is not kept together by a
// pid namespace.
func (k *keeper) killBuildUser() {
	if k.root == nil && k.s.Exclusive && k.s.Privileged {
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
	for !childless() {
		k.killBuildUser()
		pids := children()
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		for _, pid := range pids { // only those who are sure to die are waited for
			_ = waitFor(pid)
		}
	}
}

func childless() bool {
	return errors.Is(unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil), unix.ECHILD)
}

// waitFor reaps a child.
func waitFor(pid int) error {
	for {
		if _, err := syscall.Wait4(pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
