package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/internal/unixsocket"
)

// readers knows for which processes bytes came: each byte is counted for who read it, and for all
// that the reader descends from. So a build can be asked for whose processes nobody knows
// but by where they come from.
type readers struct {
	mu sync.Mutex
	// Two generations bound how much is remembered: when the young one is full the old one is
	// forgotten.
	young, old map[int]*readerProcess
}

// readerProcess is a process, or a thread, below which something was read.
type readerProcess struct {
	parent int
	start  uint64 // clock ticks since the machine started
	bytes  uint64
}

const (
	maxReaders  = 4096
	maxAncestry = 64
	// clockTicks a second there are on all that Linux runs on, as far as user space can tell.
	clockTicks = 100
)

func newReaders() *readers { return &readers{young: map[int]*readerProcess{}} }

// account is for [lazy.Options].
func (r *readers) account(ctx context.Context) func(bytes int) {
	pids, line := ancestry(fusefs.Caller(ctx))
	if len(line) == 0 {
		return nil
	}
	return func(bytes int) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for i, pid := range pids {
			r.of(pid, line[i]).bytes += uint64(bytes)
		}
	}
}

// of finds a process, or makes it known.
func (r *readers) of(pid int, is readerProcess) *readerProcess {
	p := r.young[pid]
	if p == nil {
		if p = r.old[pid]; p == nil || p.start != is.start {
			p = &is
		}
		if len(r.young) >= maxReaders {
			r.young, r.old = map[int]*readerProcess{}, r.young
		}
		r.young[pid] = p
	}
	if p.start != is.start { // another one has the number now
		*p = is
	}
	return p
}

// below sums up what came for processes that parent has started since a time, in ticks.
func (r *readers) below(parent int, since uint64) (bytes uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.young {
		if p.parent == parent && p.start >= since {
			bytes += p.bytes
		}
	}
	for pid, p := range r.old {
		if r.young[pid] == nil && p.parent == parent && p.start >= since {
			bytes += p.bytes
		}
	}
	return bytes
}

// ancestry is a process and those that it descends from, but for the first of all.
func ancestry(pid int) (pids []int, line []readerProcess) {
	for range maxAncestry {
		if pid <= 1 {
			break
		}
		p, ok := readProcess(pid)
		if !ok {
			break
		}
		pids, line = append(pids, pid), append(line, p)
		pid = p.parent
	}
	return pids, line
}

// readProcess reads the fields of /proc/<pid>/stat that matter here; the second one, a name in
// parentheses, may contain anything.
func readProcess(pid int) (p readerProcess, ok bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return p, false
	}
	const parent, start = 4 - 3, 22 - 3
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) <= start {
		return p, false
	}
	p.parent, err = strconv.Atoi(string(fields[parent]))
	if err != nil {
		return p, false
	}
	p.start, err = strconv.ParseUint(string(fields[start]), 10, 64)
	return p, err == nil
}

// lazyReaders is the socket in the state directory of a mount where one asks what came for processes:
// "<pid of their parent> <ticks>\n" is answered by "<bytes>\n".
const lazyReaders = "readers"

// serve answers who asks, until ctx ends.
func (r *readers) serve(ctx context.Context, state string) error {
	path := filepath.Join(state, lazyReaders)
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	l, err := unixsocket.Listen(path)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		go r.answer(conn)
	}
}

func (r *readers) answer(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	var parent int
	var since uint64
	line, err := bufio.NewReaderSize(conn, 64).ReadSlice('\n')
	if err != nil {
		return
	}
	if _, err := fmt.Sscanf(string(line), "%d %d\n", &parent, &since); err == nil {
		_, _ = fmt.Fprintf(conn, "%d\n", r.below(parent, since)) // who asked may have gone
	}
}

// FetchedFor implements [store.FetchMeter]: it asks the process that serves the mount.
func (s *lazyStore) FetchedFor(ctx context.Context, parent int, since time.Time) (uint64, error) {
	m, err := lazyMountOf(s.RealDir())
	if err != nil {
		return 0, err
	}
	return askReaders(ctx, m.state, parent, ticksSince(since))
}

// askReaders asks the process that serves the mount with a state directory what came for processes that
// parent has started since a time, in ticks.
func askReaders(ctx context.Context, state string, parent int, since uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := unixsocket.Dial(ctx, filepath.Join(state, lazyReaders))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	var bytes uint64
	if _, err = fmt.Fprintf(conn, "%d %d\n", parent, since); err == nil {
		_, err = fmt.Fscanf(conn, "%d\n", &bytes)
	}
	return bytes, err
}

// ticksSince is when something happened, in ticks since the machine started.
func ticksSince(t time.Time) uint64 {
	var up unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &up) != nil {
		return 0
	}
	at := time.Duration(up.Nano()) - time.Since(t)
	return uint64(max(at, 0) * clockTicks / time.Second)
}
