package sandbox

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errKilled says that nobody wants a builder any more.
var errKilled = errors.New("killed before the builder was started")

// keeper is a builder in the care of the process between who wants him and himself.
// It has one thread to do its work and waits in one place, [keeper.poll]: a second
// thread would cost a tenth of the time that it takes to start a builder.
type keeper struct {
	job
	s      keeperSpec
	killed bool    // the orders have ended
	orders []order // that have not been carried out
	root   *root   // nil without isolation
	late   []Mount
	home   int           // the mount namespace that the thread came from; -1 if it is there
	over   chan struct{} // closed in the end
}

// keep is the life of the process: one builder after the other, until nobody wants
// any more.
func keep() {
	for {
		j, err := nextJob()
		if err != nil {
			return // there is nobody to tell
		}
		k := &keeper{job: j, home: -1, over: make(chan struct{})}
		// Namespaces, a directory, credentials are a thread's here, and end with it.
		onLostThread(k.care)
		k.tell(event{kind: keeperFree})
	}
}

// care is for one builder, from the job to the end of all that he started.
func (k *keeper) care() {
	end, err := k.run()
	if err != nil {
		k.tell(event{kind: builderFailed, report: *newReport("start the builder", err)})
	} else {
		k.tell(event{kind: builderEnded, ending: *end})
	}
	k.killAll()
	k.job.close()
	k.goHome()
	close(k.over)
}

func (k *keeper) run() (*ending, error) {
	if err := unsealed(k.job[jobSpec], &k.s); err != nil {
		return nil, fmt.Errorf("read what to do: %w", err)
	}
	if err := k.prepare(); err != nil {
		return nil, err
	}
	builder, err := k.launch()
	if err != nil {
		return nil, err
	}
	k.closeFile(jobOutput) // whose end is to be that of what the builder started
	k.tell(event{kind: builderStarted})
	return k.attend(builder)
}

// tell does not fail: who does not listen any more will not be told.
func (k *keeper) tell(e event) {
	for {
		if _, err := unix.Write(keeperConn, packUp(&e)); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// prepare makes the surroundings.
func (k *keeper) prepare() error {
	if r := (steps{
		{"keep files from the builder", closeOnExec},
		// Orphans of the builder come to the keeper, and so does bwrap's child.
		{"become a subreaper", func() error { return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }},
		{"reset signals and limits", resetProcess},
	}).do(); r != nil {
		return r
	}
	if k.s.Isolation == nil {
		return nil
	}
	if r := (steps{
		{"make namespaces for mounts and names", k.unshare},
		{"drop supplementary groups", k.dropGroups},
		{"set the domain name", func() error { return unix.Setdomainname([]byte("(none)")) }},
	}).do(); r != nil {
		return r
	}
	var err error
	k.root, k.late, err = newRoot(&k.s)
	return err
}

// unshare gives this thread namespaces of its own. The keeper of an ordinary user
// has been started in such.
func (k *keeper) unshare() (err error) {
	if !k.s.Privileged {
		return nil
	}
	if k.home, err = unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	return unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWUTS)
}

// goHome leaves nothing mounted when it returns. The end of the thread would do the
// same, but somewhat later.
func (k *keeper) goHome() {
	if k.root != nil {
		k.root.close()
	}
	if k.home >= 0 {
		_ = unix.Setns(k.home, unix.CLONE_NEWNS) // if it fails, the end of the thread will do
		unix.Close(k.home)
	}
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
	defer unix.Close(fd)
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
		k.obey()
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
	message := make([]byte, maxMessage)
	n, err := unix.Read(keeperConn, message)
	if n <= 0 {
		return errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN)
	}
	var o order
	if unpack(message[:n], &o) != nil {
		return false // who says such things is not to be trusted with a builder
	}
	k.orders = append(k.orders, o)
	return true
}

// obey carries out the orders that have come.
func (k *keeper) obey() {
	for _, o := range k.orders {
		k.tell(event{kind: mountShown, report: *k.show(Mount{Kind: ReadOnly, Source: o.Source, Target: o.Target})})
	}
	k.orders = nil
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
