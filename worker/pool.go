package worker

import (
	"context"
	"net"
	"sync"
	"syscall"
	"time"
)

// pool keeps connections for the next request.
type pool struct {
	connect func(context.Context) (*conn, error)
	maxAge  time.Duration
	slots   chan struct{} // one for each connection that is in use

	mu     sync.Mutex
	idle   []*conn // the one used last at the end
	closed bool
}

func newPool(limit int, maxAge time.Duration, connect func(context.Context) (*conn, error)) *pool {
	return &pool{connect: connect, maxAge: maxAge, slots: make(chan struct{}, limit)}
}

// get gives a connection that must be put back. It waits for one when all are in
// use.
func (p *pool) get(ctx context.Context) (*conn, error) {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	for k := p.take(); k != nil; k = p.take() {
		if (p.maxAge == 0 || time.Since(k.born) < p.maxAge) && !hungUp(k.nc) {
			return k, nil
		}
		k.close()
	}
	k, err := p.connect(ctx)
	if err != nil {
		<-p.slots
	}
	return k, err
}

func (p *pool) take() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	if n == 0 {
		return nil
	}
	k := p.idle[n-1]
	p.idle = p.idle[:n-1]
	return k
}

func (p *pool) put(k *conn) {
	p.mu.Lock()
	if !k.bad() && !p.closed {
		p.idle = append(p.idle, k)
		k = nil
	}
	p.mu.Unlock()
	if k != nil {
		k.close()
	}
	<-p.slots
}

func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	for _, k := range idle {
		k.close()
	}
}

// hungUp tells that the other side of an idle connection has closed it, or sent
// what nobody asked for: a daemon that was started anew, say.
func hungUp(nc net.Conn) bool {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	quiet := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		quiet = err == syscall.EAGAIN
		return true
	})
	return err != nil || !quiet
}
