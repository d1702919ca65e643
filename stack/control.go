package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// controlFile is a socket in the upper's directory. A client sends one line, a
// word, and gets one JSON value. Who may write to the directory may connect.
const controlFile = "control"

// askStatus is the word that asks for the status.
const askStatus = "status"

// maxAnswer bounds what a client reads.
const maxAnswer = 16 << 20

// control answers questions about a stack that is up.
type control struct {
	l      net.Listener
	path   string
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func serveControl(s *Stack) (*control, error) {
	dir, err := os.OpenFile(s.Config.Upper.Dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	path := filepath.Join(s.Config.Upper.Dir, controlFile)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: viaDescriptor(dir, controlFile), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on '%s': %w", path, err)
	}
	l.SetUnlinkOnClose(false) // the descriptor in its name is about to be closed
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &control{l: l, path: path, cancel: cancel}
	c.wg.Go(func() { c.accept(ctx, s) })
	return c, nil
}

// viaDescriptor names a file in an open directory, shortly enough for the
// address of a socket.
func viaDescriptor(dir *os.File, name string) string {
	return "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + name
}

func (c *control) accept(ctx context.Context, s *Stack) {
	for {
		conn, err := c.l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			select {
			case <-time.After(100 * time.Millisecond): // out of descriptors: it passes
				continue
			case <-ctx.Done():
				return
			}
		}
		c.wg.Go(func() { answer(ctx, s, conn) })
	}
}

func answer(ctx context.Context, s *Stack, conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	_ = conn.SetDeadline(time.Now().Add(2 * patience)) // a real connection has deadlines
	line := make([]byte, len(askStatus)+1)
	if _, err := io.ReadFull(conn, line); err != nil || string(line) != askStatus+"\n" {
		return
	}
	_ = json.NewEncoder(conn).Encode(s.Status(ctx)) // a client that is gone wants nothing
}

// close ends the answering; the store may be closed afterwards.
func (c *control) close() {
	_ = c.l.Close()
	c.cancel()
	c.wg.Wait()
	_ = os.Remove(c.path)
}

// ask asks the process that serves the stack of an upper.
func ask(ctx context.Context, upper string) (*Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	dir, err := os.OpenFile(upper, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", viaDescriptor(dir, controlFile))
	if err != nil {
		return nil, fmt.Errorf("connect to '%s': %w", filepath.Join(upper, controlFile), err)
	}
	defer conn.Close()
	if at, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(at) // a real connection has deadlines
	}
	if _, err := conn.Write([]byte(askStatus + "\n")); err != nil {
		return nil, err
	}
	var st Status
	if err := json.NewDecoder(io.LimitReader(conn, maxAnswer)).Decode(&st); err != nil {
		return nil, fmt.Errorf("its answer makes no sense: %w", err)
	}
	return &st, nil
}
