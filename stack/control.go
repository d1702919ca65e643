package stack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/strata-nix/strata/internal/unixsocket"
)

// controlFile is a socket in the upper's directory; see requests.go for what is said
// there. It belongs to whoever serves the stack, or to the owner of the upper, and
// nobody else may connect.
const controlFile = "control"

// control answers questions about a stack that is up.
type control struct {
	l      net.Listener
	path   string
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func serveControl(s *Stack) (*control, error) {
	path := filepath.Join(s.Config.Upper.Dir, controlFile)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := unixsocket.Listen(path)
	if err != nil {
		return nil, err
	}
	if err := s.giveControl(path); err != nil {
		_ = l.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &control{l: l, path: path, cancel: cancel}
	c.wg.Go(func() { c.accept(ctx, s) })
	return c, nil
}

// giveControl says who may connect.
func (s *Stack) giveControl(path string) error {
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	owner, err := s.Config.GC.owner()
	if err != nil || owner < 0 || owner == os.Geteuid() {
		return err
	}
	if err := os.Chown(path, owner, -1); err != nil {
		return fmt.Errorf("giving the stack to its owner '%s': %w", s.Config.GC.Owner, err)
	}
	return nil
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

// close ends the answering; the store may be closed afterwards.
func (c *control) close() {
	_ = c.l.Close()
	c.cancel()
	c.wg.Wait()
	_ = os.Remove(c.path)
}
