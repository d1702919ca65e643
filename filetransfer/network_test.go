package filetransfer

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/strata-nix/strata/activity"
)

// A network connects clients and servers in memory, so that time stands still
// while somebody works (package synctest).
type network struct {
	t     *testing.T
	mu    sync.Mutex
	hosts map[string]*listener
	dials int
}

// within runs a test in a bubble with a network.
func within(t *testing.T, f func(t *testing.T, n *network)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, &network{t: t, hosts: make(map[string]*listener)}) })
}

// serve makes a host of the network, "name:port".
func (n *network) serve(address string, h http.HandlerFunc) {
	l := &listener{conns: make(chan net.Conn), done: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[address] = l
	server := &http.Server{Handler: h}
	go server.Serve(l)
	n.t.Cleanup(func() { server.Close() })
}

func (n *network) dial(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	n.dials++
	l := n.hosts[strings.ToLower(address)]
	n.mu.Unlock()
	if l == nil {
		return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	}
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// client makes a client of the network; opts may leave out nearly everything.
func (n *network) client(opts Options) *Client {
	opts.dial = n.dial
	opts.Proxy = func(*url.URL) (*url.URL, error) { return nil, nil }
	c := New(opts)
	n.t.Cleanup(c.CloseIdle)
	return c
}

type listener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *listener) Addr() net.Addr { return &net.IPAddr{} }

func parsed(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// get downloads all of something.
func get(t testing.TB, c *Client, req *Request) (string, *Response, error) {
	t.Helper()
	res, err := c.Get(t.Context(), req)
	if err != nil {
		return "", nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return string(body), res, err
}

// A notebook is a sink that writes everything down.
type notebook struct {
	mu      sync.Mutex
	logs    []string
	started []activity.Event
	stopped []uint64
	last    map[uint64][]activity.Field // progress
}

func (n *notebook) Log(_ activity.Level, text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.logs = append(n.logs, text)
}

func (n *notebook) Start(e activity.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.started = append(n.started, e)
}

func (n *notebook) Stop(id uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stopped = append(n.stopped, id)
}

func (n *notebook) Result(id uint64, what activity.ResultType, fields []activity.Field) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.last == nil {
		n.last = make(map[uint64][]activity.Field)
	}
	if what == activity.Progress {
		n.last[id] = fields
	}
}
