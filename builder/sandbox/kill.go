package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// noUser is a user id that nobody has. (The last one, -1, means "no change".)
const noUser = ^uint32(0) - 1

// endUser kills all processes of a user and waits until they are gone.
func endUser(uid uint32) error {
	for pause, waited := time.Millisecond, time.Duration(0); ; pause = min(2*pause, 100*time.Millisecond) {
		if err := killUser(uid); err != nil {
			return err
		}
		left := alive(uid)
		if len(left) == 0 {
			return nil
		}
		if waited > patience {
			return fmt.Errorf("processes of user %d do not die: %s", uid, strings.Join(left, ", "))
		}
		time.Sleep(pause)
		waited += pause
	}
}

// alive are the processes of a user that are more than numbers which their parents
// may still ask about.
func alive(uid uint32) (pids []string) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		var st unix.Stat_t
		if e.Name()[0] < '0' || e.Name()[0] > '9' || unix.Stat("/proc/"+e.Name(), &st) != nil || st.Uid != uid {
			continue
		}
		if state, _, ok := stat(e.Name()); ok && state != "Z" && state != "X" {
			pids = append(pids, e.Name()+" ("+state+")")
		}
	}
	return pids
}

// killUser kills all processes of a user at one blow: while the kernel goes
// through them none of them can fork. It takes root.
//
// Whose processes are killed is decided by who kills, so a thread becomes half
// that user, in the one way that does no harm: its effective id alone is his.
// Its real id is nobody's: root's would make kill reach all processes of root.
// Its saved id stays root's, so that the user can neither signal nor trace it.
// Processes of one's own thread group are left out by the kernel.
func killUser(uid uint32) (err error) {
	if uid == 0 || uid == noUser || uid == ^uint32(0) || int(uid) == os.Getuid() || int(uid) == os.Geteuid() {
		return fmt.Errorf("kill the processes of user %d: not a build user", uid)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		onLostThread(func() { err = killAllAs(uid) })
	}()
	<-done
	if err != nil {
		return fmt.Errorf("kill the processes of user %d: %w", uid, err)
	}
	return nil
}

// onLostThread calls f on a thread that ends with the goroutine, whatever f makes
// of it. That must not be the first thread of the process: it cannot end, and its
// ids are those by which others see the process. Somebody who kills as the same
// user afterwards would kill this one.
func onLostThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		f()
		return
	}
	defer runtime.UnlockOSThread()
	done := make(chan struct{})
	go func() {
		defer close(done)
		onLostThread(f)
	}()
	<-done
}

func killAllAs(uid uint32) error {
	err := setThreadUser(noUser, uid, 0)
	if errors.Is(err, unix.EINVAL) { // noUser is not mapped in a user namespace
		err = setThreadUser(uid, uid, 0)
	}
	if err != nil {
		return err
	}
	if err := unix.Kill(-1, unix.SIGKILL); !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// setThreadUser changes the ids of the calling thread only, and makes sure of it:
// a kill of everything with the ids of root would be the end of the machine.
func setThreadUser(real, effective, saved uint32) error {
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(real), uintptr(effective), uintptr(saved)); errno != 0 {
		return fmt.Errorf("setresuid: %w", errno)
	}
	r, e, s := unix.Getresuid()
	if uint32(r) != real || uint32(e) != effective || uint32(s) != saved {
		return fmt.Errorf("setresuid: the ids are %d, %d and %d", r, e, s)
	}
	return nil
}

// setThreadGroups changes the supplementary groups of the calling thread only.
func setThreadGroups(groups []uint32) error {
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// children lists the children of this process, those of each of its threads.
func children() []int {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return nil
	}
	var pids []int
	for _, t := range threads {
		b, err := os.ReadFile("/proc/self/task/" + t.Name() + "/children")
		if errors.Is(err, os.ErrNotExist) && t.Name() == strconv.Itoa(unix.Getpid()) {
			return childrenByParent()
		}
		for pid := range strings.FieldsSeq(string(b)) {
			if n, err := strconv.Atoi(pid); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}

// childrenByParent finds them among all processes, for kernels without
// CONFIG_PROC_CHILDREN.
func childrenByParent() []int {
	var pids []int
	self := unix.Getpid()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if _, parent, ok := stat(e.Name()); ok && parent == self {
			pids = append(pids, pid)
		}
	}
	return pids
}

// stat reads the third and fourth field of /proc/<pid>/stat; the second, a name in
// parentheses, may contain anything.
func stat(pid string) (state string, parent int, ok bool) {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return "", 0, false
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 2 {
		return "", 0, false
	}
	parent, err = strconv.Atoi(fields[1])
	return fields[0], parent, err == nil
}
