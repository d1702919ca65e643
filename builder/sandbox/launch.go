package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// launch is the way from the keeper to a builder that has been executed.
type launch struct {
	*keeper
	status   *bufio.Reader // what entry says
	word     *os.File      // a byte lets entry become the builder
	info     *os.File      // what bwrap says of its child
	block    *os.File      // a byte tells bwrap that ids are mapped
	said     tail          // what bwrap, or entry, complains of
	saidAll  chan struct{} // closed when they have said all
	loader   *loader       // of this program, or nil
	children []*os.File    // files of the child, closed when it has them
}

// launch returns the number of the builder, a child of the keeper's.
func (k *keeper) launch() (int, error) {
	l := &launch{keeper: k, saidAll: make(chan struct{})}
	first, err := l.fork()
	if err != nil {
		return 0, err
	}
	builder, err := l.guide(first)
	if err == nil || errors.Is(err, errKilled) {
		return builder, err
	}
	if errors.Is(err, io.EOF) { // it died without a report
		k.killAll()
		<-l.saidAll
		err = &SetupError{Step: "start bubblewrap", Err: l.said.complaint()}
	}
	return 0, err
}

// fork starts bwrap, or without isolation entry.
func (l *launch) fork() (int, error) {
	files, err := l.files()
	defer func() {
		for _, f := range l.children {
			f.Close()
		}
	}()
	if err != nil {
		return 0, err
	}
	path, argv := "/proc/self/exe", l.entryArgs([]string{entryName})
	sys := &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if l.root != nil {
		path, argv = l.s.Bwrap, l.s.bwrapArgs(l.root.cover, l.entryArgs(append(l.loader.command(), entryName)))
		sys.Credential = l.s.credential()
	}
	if l.s.HasCgroup {
		sys.UseCgroupFD, sys.CgroupFD = true, keeperCgroup
	}
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{Dir: "/", Env: stageEnv, Files: files, Sys: sys})
	if err != nil {
		return 0, &SetupError{Step: "execute " + path, Err: err}
	}
	return pid, nil
}

// entryArgs tells entry how many files there are for the loader.
func (l *launch) entryArgs(command []string) []string {
	n := 0
	if l.loader != nil {
		n = len(l.loader.dirs) + 1
	}
	return append(command, strconv.Itoa(n))
}

// files makes what the child is started with: see the list beside entrySpecFD.
func (l *launch) files() ([]uintptr, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	var pipes [5][2]*os.File // status, word, info, block, said
	for i := range pipes {
		if pipes[i][0], pipes[i][1], err = pipe(); err != nil {
			return nil, err
		}
	}
	status, word, info, block, said := pipes[0], pipes[1], pipes[2], pipes[3], pipes[4]
	l.status, l.word, l.info, l.block = bufio.NewReader(status[0]), word[1], info[0], block[1]
	go func() {
		defer close(l.saidAll)
		_, _ = io.Copy(&l.said, said[0])
	}()
	spec, output := os.NewFile(keeperEntry, "spec"), os.NewFile(keeperOutput, "output")
	l.children = []*os.File{null, self, status[1], word[0], info[1], block[0], said[1], spec, output}
	files := make([]uintptr, bwrapBlock+1)
	for fd, f := range map[int]*os.File{
		0: null, 1: said[1], 2: said[1],
		entrySpecFD: spec, entryStatus: status[1], entryGo: word[0], entryOutput: output, entrySelf: self,
		bwrapInfo: info[1], bwrapBlock: block[0],
	} {
		files[fd] = f.Fd()
	}
	if l.loader, err = findLoader(); err != nil || l.loader == nil {
		return files, err
	}
	loaded, err := l.loader.open()
	l.children = append(l.children, loaded...)
	for _, f := range loaded {
		files = append(files, f.Fd())
	}
	return files, err
}

// guide sees the child through to the execution of the builder.
func (l *launch) guide(first int) (builder int, err error) {
	builder = first
	if l.root != nil {
		// bwrap writes before it does anything that can fail later.
		if builder, err = during(l, func() (int, error) { return bwrapChild(l.info) }); err != nil {
			return 0, err
		}
		if l.s.Count > 1 {
			if err := l.s.mapRange(builder); err != nil {
				return 0, &SetupError{Step: "map the range of user ids", Err: err}
			}
			if _, err := l.block.Write([]byte{1}); err != nil {
				return 0, err
			}
		}
	}
	if _, err := during(l, l.hear); err != nil {
		return 0, err
	}
	for _, m := range l.late {
		if err := l.root.show(m); err != nil {
			return 0, err
		}
	}
	if l.root != nil {
		if err := relieve(first); err != nil {
			return 0, &SetupError{Step: "take the builder over from bubblewrap", Err: err}
		}
	}
	if _, err := l.word.Write([]byte{1}); err != nil {
		return 0, err
	}
	// The end of its status without a report is that of entry, which is the builder now.
	if _, err := during(l, l.hear); !errors.Is(err, io.EOF) {
		return 0, err
	}
	return builder, nil
}

// hear waits for what entry says.
func (l *launch) hear() (struct{}, error) {
	line, err := l.status.ReadString('\n')
	if err != nil {
		return struct{}{}, err
	}
	if ready, failed := parseWord(line); !ready {
		return struct{}{}, failed
	}
	return struct{}{}, nil
}

// during waits for f, or until everything is to end.
func during[T any](l *launch, f func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-l.kill:
		var none T
		return none, errKilled
	}
}

// relieve ends the part of bwrap that waits outside for the builder, so that he
// becomes a child of the keeper, who then learns how he really ended: bwrap would make
// an exit status even of a signal.
func relieve(monitor int) error {
	if err := unix.Kill(monitor, unix.SIGKILL); err != nil {
		return fmt.Errorf("kill: %w", err)
	}
	for {
		if err := waitFor(monitor); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
