package enter

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// EndOthers ends all other processes in the mount namespace of this one but its own
// descendants: politely first, and after a while by force. It returns when there are
// none, or with an error that names one that does not end.
func EndOthers(patience time.Duration) error {
	const pause, most = 5 * time.Millisecond, 30 * time.Second
	began := time.Now()
	told := make(map[int]bool)
	for {
		others, err := others()
		if err != nil || len(others) == 0 {
			return err
		}
		waited := time.Since(began)
		if waited > patience+most {
			return fmt.Errorf("process %d does not end", others[0])
		}
		for _, pid := range others {
			switch {
			case waited > patience:
				_ = unix.Kill(pid, unix.SIGKILL) // fails if it has ended
			case !told[pid]:
				told[pid] = true
				_ = unix.Kill(pid, unix.SIGTERM)
				_ = unix.Kill(pid, unix.SIGHUP) // shells listen to this one
				_ = unix.Kill(pid, unix.SIGCONT)
			}
		}
		time.Sleep(pause)
	}
}

// others lists them.
func others() ([]int, error) {
	ours, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return nil, err
	}
	proc, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	parents := make(map[int]int)
	var found []int
	for _, e := range proc {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		state, parent, ok := stat(pid)
		if !ok || state == 'Z' || state == 'X' {
			continue
		}
		parents[pid] = parent
		if theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid)); err == nil && theirs == ours {
			found = append(found, pid)
		}
	}
	self := os.Getpid()
	var others []int
	for _, pid := range found {
		if !descends(pid, self, parents) {
			others = append(others, pid)
		}
	}
	return others, nil
}

// descends tells whether a process is another or was started by it.
func descends(pid, ancestor int, parents map[int]int) bool {
	for range len(parents) + 1 {
		if pid == ancestor {
			return true
		}
		up, ok := parents[pid]
		if !ok {
			return false
		}
		pid = up
	}
	return false
}

// stat reads the third and fourth field of /proc/<pid>/stat; the second, a name in
// parentheses, may contain anything.
func stat(pid int) (state byte, parent int, ok bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, false
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 2 || len(fields[0]) != 1 {
		return 0, 0, false
	}
	parent, err = strconv.Atoi(string(fields[1]))
	return fields[0][0], parent, err == nil
}
