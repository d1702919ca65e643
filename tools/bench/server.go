package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// server is a daemon of one side.
type server struct {
	cmd    *exec.Cmd
	socket string
	log    *os.File
	// began is when it was started; answer how long it took until it had answered
	// a first question.
	answered time.Duration
}

// startServer starts a daemon on a store and waits until it has said whether
// path is valid.
func startServer(ctx context.Context, w *world, s side, name, store, path string) (*server, error) {
	d := &server{socket: filepath.Join(w.mem, fmt.Sprintf("%s-%s.sock", name, s))}
	args := s.choose([]string{"nix", "daemon", "--store", store}, []string{"daemon", "--store", store, "--socket", d.socket})
	d.cmd = exec.Command(args[0], args[1:]...)
	d.cmd.Env = append(os.Environ(), "NIX_DAEMON_SOCKET_PATH="+d.socket)
	var err error
	if d.log, err = os.Create(d.socket + ".log"); err != nil {
		return nil, err
	}
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	if err := os.RemoveAll(d.socket); err != nil {
		return nil, err
	}
	begin := time.Now()
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	for {
		if err = d.ask(ctx, path); err == nil {
			d.answered = time.Since(begin)
			return d, nil
		}
		if ctx.Err() != nil || time.Since(begin) > time.Minute {
			return nil, errors.Join(fmt.Errorf("the daemon of %s does not answer: %w: %s", s, err, lastLine(d.log)), d.stop())
		}
		time.Sleep(200 * time.Microsecond)
	}
}

func (d *server) ask(ctx context.Context, path string) error {
	c, err := dial(ctx, d.socket)
	if err != nil {
		return err
	}
	defer c.conn.Close()
	c.isValid(path)
	return c.err()
}

// stop ends it.
func (d *server) stop() error {
	defer d.log.Close()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return nil // it has ended already
	}
	kill := time.AfterFunc(20*time.Second, func() { d.cmd.Process.Kill() })
	defer kill.Stop()
	d.cmd.Wait() // SIGTERM is how it is to end
	return nil
}

// put has the load client put load on it.
func (d *server) put(ctx context.Context, w *world, l load) (sample, error) {
	l.Socket = d.socket
	if l.Time == 0 {
		l.Time = w.o.Time
	}
	l.Least = max(l.Least, 1)
	args := l.args()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	before := cpuSeconds(d.cmd.Process.Pid)
	out, err := cmd.Output()
	if err != nil {
		return sample{}, fmt.Errorf("load %s: %w", l.Op, err)
	}
	used := cpuSeconds(d.cmd.Process.Pid) - before
	var got loaded
	if err := json.Unmarshal(out, &got); err != nil {
		return sample{}, err
	}
	return sample{
		Value: float64(got.Requests) / got.Seconds, CPU: used / float64(got.Requests),
		P50: got.P50, P99: got.P99, answer: fmt.Sprint(got.First),
	}, nil
}
