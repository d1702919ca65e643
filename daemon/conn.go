package daemon

import (
	"context"
	"net"
	"sync"
)

// conn is a connection and whether an operation is under way on it.
type conn struct {
	net.Conn
	peer    Peer
	user    string
	trusted bool
	cancel  context.CancelFunc

	mu      sync.Mutex
	busy    bool
	closing bool // close as soon as it is not busy
}

// setBusy is told by the session: true when the first byte of an operation has
// come, false when its answer has been sent.
func (c *conn) setBusy(busy bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = busy
	if c.closing && !busy {
		c.cut()
	}
}

// drain lets the operation that is under way be the last.
func (c *conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = true
	if !c.busy {
		c.cut()
	}
}

// cut ends the connection whatever it is doing.
func (c *conn) cut() {
	c.cancel()
	_ = c.Close() // nobody is left to tell
}
