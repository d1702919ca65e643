package daemon

import (
	"fmt"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// hangups tells when the clients of connections have gone, also while nobody
// reads from the connection. It is one epoll instance and one goroutine for all
// connections. Go's own poller cannot be asked this without taking the place of
// a reader.
type hangups struct {
	epfd   int
	wakefd int // an eventfd, readable once stop is called
	done   chan struct{}

	mu   sync.Mutex
	next uint32
	gone map[uint32]func() // by the token in the epoll event
}

// newHangups starts the goroutine; stop ends it.
func newHangups() (*hangups, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	wakefd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(epfd)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	h := &hangups{epfd: epfd, wakefd: wakefd, done: make(chan struct{}), gone: map[uint32]func(){}}
	// Token 0 is the wake-up.
	if err := unix.EpollCtl(epfd, unix.EPOLL_CTL_ADD, wakefd, &unix.EpollEvent{Events: unix.EPOLLIN}); err != nil {
		_ = unix.Close(wakefd)
		_ = unix.Close(epfd)
		return nil, fmt.Errorf("epoll_ctl: %w", err)
	}
	go h.run()
	return h, nil
}

// watch calls gone once, from another goroutine, when the peer of c has closed
// it: of a socket both directions, of a pipe that is written to its other end. The
// returned function ends that and must be called; c may be closed before.
func (h *hangups) watch(c any, gone func()) (unwatch func()) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return func() {}
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return func() {}
	}
	h.mu.Lock()
	h.next = max(h.next+1, 1)
	token := h.next
	h.gone[token] = gone
	h.mu.Unlock()
	// No events but those that are always told: hang-up and error. Failure to
	// watch only means that the end of the client is noticed later.
	_ = raw.Control(func(fd uintptr) {
		_ = unix.EpollCtl(h.epfd, unix.EPOLL_CTL_ADD, int(fd), &unix.EpollEvent{Events: unix.EPOLLONESHOT, Fd: int32(token)})
	})
	return func() {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.EpollCtl(h.epfd, unix.EPOLL_CTL_DEL, int(fd), nil)
		})
		h.take(token)
	}
}

func (h *hangups) take(token uint32) func() {
	h.mu.Lock()
	defer h.mu.Unlock()
	gone := h.gone[token]
	delete(h.gone, token)
	return gone
}

func (h *hangups) run() {
	defer close(h.done)
	var events [64]unix.EpollEvent
	for {
		n, err := unix.EpollWait(h.epfd, events[:], -1)
		if err != nil && err != unix.EINTR { //nolint:errorlint // an errno
			return
		}
		for _, e := range events[:max(n, 0)] {
			if e.Fd == 0 {
				return
			}
			// A token of a connection that has been unwatched finds nothing.
			if gone := h.take(uint32(e.Fd)); gone != nil {
				gone()
			}
		}
	}
}

// stop ends the goroutine and waits for it. Nothing may be watched afterwards.
func (h *hangups) stop() {
	_, _ = unix.Write(h.wakefd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	<-h.done
	_ = unix.Close(h.wakefd)
	_ = unix.Close(h.epfd)
}
